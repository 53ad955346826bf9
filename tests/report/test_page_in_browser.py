"""The page in a real browser, from a file:// address: verdicts are there, pictures load, nothing sticks out."""

import html
import json
import re

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.drivers


@pytest.fixture
def address(experiment):
    experiment.write_curves()
    experiment.build()
    return (experiment.destination / "index.html").as_uri()


@pytest.fixture
def ablation_address(ablation):
    ablation.write_curves()
    ablation.build()
    return (ablation.destination / "index.html").as_uri()


def test_the_browser_shows_the_tables_figures(browse, address, experiment):
    dom = browse("--dump-dom", address)
    printed = re.findall(r"<td[^>]*><a [^>]*>(\d\d\.\d(?: ± \d\.\d)?)</a></td>", dom)
    assert len(printed) == 16  # four models, two probes, top-1 and top-5
    tex = (experiment.destination / "table.tex").read_text()
    assert all(figure.replace("±", "$\\pm$") in tex for figure in printed)


@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)], ids=["dark", "light"])
def test_a_screenshot_shows_a_page_with_pictures_in_the_readers_scheme(browse, tmp_path, address, scheme, dark):
    shot = tmp_path / "page.png"
    browse(
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1180,7000",
        f"--screenshot={shot}",
        address,
    )
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert (seen[2, 2].mean() < 64) == dark
    # The hue of attention maps appears nowhere but in inlined pictures.
    orange = (seen[..., 0] > 220) & (seen[..., 1] > 100) & (seen[..., 1] < 200) & (seen[..., 2] < 60)
    assert orange.sum() > 10_000  # pixels


def test_the_browser_shows_every_claims_verdict_and_marks_the_weakest_pair(browse, ablation_address):
    dom = browse("--dump-dom", ablation_address)
    claims = dom.partition('id="claims"')[2].partition("</table>")[0]
    bodies = re.findall(r"<tbody.*?</tbody>", claims, re.DOTALL)
    best, average, no_worse = (re.findall(r'class="verdict[^>]*>([^<]+)<', body) for body in bodies)
    assert (
        best == ["does not hold", "does not hold", "holds", "does not hold"] * 2
    )  # three pairs and all, in each figure
    assert [len(average), len(no_worse)] == [6, 6]
    assert re.findall(r"<small>(.*?)</small>", bodies[0]) == ["weakest", "weakest"]
    assert "no worse than after it (margin 1 point)" in bodies[2]
    assert "The weakest pair decides and is marked" in dom


def test_the_browser_loads_a_chart_for_each_group_of_many_models(browse, ablation_address):
    dom = browse("--dump-dom", ablation_address)
    sections = [rest.partition("</h3>") for rest in dom.split("<h3>")[1:]]
    shown = {title: len(re.findall("<img", text.partition("<h")[0])) for title, _, text in sections}
    assert shown == {"Distilled from the teacher": 1, "(e) lambda": 2, "(d) Layers of P, probed after each": 1}


FRAME = """<iframe id="f" src="{address}" style="width:{width}px;height:900px;border:0"></iframe>
<script>document.getElementById("f").onload = event => {{
  const page = event.target.contentDocument, images = [...page.images];
  const boxed = element => element.closest(".scroll, .card");
  const out = [...page.querySelectorAll("body *")].filter(
    element => !boxed(element) && element.getBoundingClientRect().right > {width} + 0.5);
  document.body.textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth, out: out.map(element => element.outerHTML.slice(0, 80)),
    images: images.length, broken: images.filter(image => !image.naturalWidth).length}});
}}</script>"""


@pytest.mark.parametrize("width", [400, 1180])
def test_nothing_sticks_out_of_the_window_and_every_picture_loads(browse, tmp_path, ablation_address, width):
    """Tables and charts that are wider scroll in boxes of their own. A frame, since a window cannot be this narrow."""
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(address=ablation_address, width=width))
    dom = browse("--allow-file-access-from-files", "--dump-dom", frame.as_uri())
    seen = json.loads(html.unescape(re.findall(r"<body>(\{.*\})</body>", dom, re.DOTALL)[0]))
    assert (seen["width"], seen["out"], seen["broken"]) == (width, [], 0)
    assert seen["images"] >= 10


AUDIT = """<iframe id="f" src="{address}" style="width:900px;height:900px;border:0"></iframe>
<script>document.getElementById("f").onload = event => {{
  const page = event.target.contentDocument, view = event.target.contentWindow;
  const all = query => [...page.querySelectorAll(query)];
  const told = element => element.outerHTML.slice(0, 90), problems = [];
  const claim = (what, elements) => elements.forEach(element => problems.push(what + ": " + told(element)));
  claim("no alternative text", all("img").filter(image => !(image.alt || "").trim()));
  claim("a link without text", all("a").filter(link => !link.textContent.trim()));
  claim("a link to nowhere", all("a[href^='#']").filter(
    link => !page.getElementById(decodeURIComponent(link.hash.slice(1)))));
  claim("a heading cell without scope or text", all("th").filter(cell => !cell.scope ||
    !(cell.textContent.trim() || cell.querySelector("img"))));
  claim("a table without headings", all("table").filter(table => !table.querySelector("th[scope=col]")));
  claim("scrolls, but not by keyboard", all(".scroll").filter(box => box.tabIndex != 0 || !box.ariaLabel));
  const ids = all("[id]").map(element => element.id);
  claim("an id given twice", all("[id]").filter(element => ids.indexOf(element.id) != ids.lastIndexOf(element.id)));
  const levels = all("h1, h2, h3, h4").map(heading => Number(heading.tagName[1]));
  if (levels[0] != 1 || levels.filter(level => level == 1).length != 1) problems.push("not one h1: " + levels);
  if (levels.some((level, place) => place && level > levels[place - 1] + 1)) problems.push("skips a level: " + levels);
  for (const kind of ["header", "nav[aria-label]", "main"])
    if (all(kind).length != 1) problems.push("landmark " + kind + ": " + all(kind).length);
  claim("outside of landmarks", [...page.body.children].filter(child => !child.matches("header, nav, main")));
  if (page.documentElement.lang != "en" || !page.title) problems.push("no language or title");

  const channels = text => {{
    const numbers = text.match(/[\\d.e-]+/g).map(Number), wide = text.startsWith("color(");
    const [r, g, b, a = 1] = wide ? [...numbers.slice(0, 3).map(n => 255 * n), numbers[3]] : numbers;
    return [r, g, b, a];
  }};
  const over = ([r, g, b, a], [R, G, B]) => [a * r + (1 - a) * R, a * g + (1 - a) * G, a * b + (1 - a) * B];
  const behind = element => element == null ? [255, 255, 255] :
    over(channels(view.getComputedStyle(element).backgroundColor), behind(element.parentElement));
  const light = colour => colour.map(n => n / 255).map(n => n <= .04045 ? n / 12.92 : ((n + .055) / 1.055) ** 2.4)
    .reduce((sum, n, place) => sum + n * [.2126, .7152, .0722][place], 0);
  let texts = 0;
  for (const element of all("body *")) {{
    if (![...element.childNodes].some(node => node.nodeType == 3 && node.data.trim())) continue;
    const style = view.getComputedStyle(element), back = behind(element);
    const [one, other] = [light(over(channels(style.color), back)), light(back)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    texts += 1;
    if ((one + .05) / (other + .05) < (large ? 3 : 4.5))
      problems.push("contrast " + ((one + .05) / (other + .05)).toFixed(2) + ": " + told(element));
  }}
  const dark = light(behind(page.body)) < .1;
  document.body.textContent = JSON.stringify({{problems: [...new Set(problems)], texts: texts, dark: dark}});
}}</script>"""


@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)], ids=["dark", "light"])
def test_the_page_can_be_read_by_everybody(browse, tmp_path, address, scheme, dark):
    """Alternative texts, headings, landmarks, tables, links, focus, and the contrast of every text (WCAG 2 AA)."""
    frame = tmp_path / "frame.html"
    frame.write_text(AUDIT.format(address=address))
    options = ["--allow-file-access-from-files", f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom"]
    dom = browse(*options, frame.as_uri())
    seen = json.loads(html.unescape(re.findall(r"<body>(\{.*\})</body>", dom, re.DOTALL)[0]))
    assert seen["problems"] == []
    assert seen["texts"] > 200
    assert seen["dark"] == dark

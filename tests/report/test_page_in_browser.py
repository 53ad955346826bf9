"""The page in a real browser, from a file:// address: verdicts are there, pictures load, nothing sticks out."""

import html
import json
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
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


@pytest.fixture
def browse(browser, tmp_path):
    def run(*options: str) -> str:
        command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *options]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return run


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
        "--window-size=1180,3000",
        f"--screenshot={shot}",
        address,
    )
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert (seen[2, 2].mean() < 64) == dark
    # The hue of attention maps appears nowhere but in inlined pictures.
    orange = (seen[..., 0] > 220) & (seen[..., 1] > 100) & (seen[..., 1] < 200) & (seen[..., 2] < 60)
    assert orange.mean() > 0.005


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

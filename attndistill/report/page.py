"""The page: one file that holds everything it shows, readable from a file:// address with no network."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from attndistill.core.words import shown
from attndistill.report.evaluated import TITLES
from attndistill.report.sheet import Sheet


@dataclass(frozen=True)
class Pictures:
    """PNG files' bytes: charts by file name, panels by (image, class), the number of all panels, groups' charts."""

    charts: Mapping[str, bytes]
    panels: Mapping[tuple[str, str], bytes]
    panel_count: int
    groups: Mapping[str, Mapping[str, bytes]]


def render_page(
    sheets: Mapping[str, Sheet],
    pictures: Pictures,
    *,
    title: str,
    headlines: Sequence[str],
    description: Mapping[str, str],
    searches: Sequence[Mapping[str, Any]] = (),
    gallery: Mapping[str, Any] | None = None,
    files: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    followed: Sequence[str] = (),
    timed: Sequence[str] = (),
) -> str:
    """HTML with every picture inlined; every label is escaped.

    Args:
        sheets: "table", "chosen", and "differences" and "claims" where there are any.
        pictures: to be inlined.
        title: of the page.
        headlines: what was found, as sentences; the first is the first thing that the page says.
        description: provenance, name -> text.
        searches: as `search.section_of` gives them.
        gallery: "overlays", "neighbours" and "confusion", as `gallery` gives them.
        files: what lies beside the page, name -> (text, place) of links.
        followed: labels of the rows whose accuracy over the epochs of distillation is among the charts.
        timed: the first headline compares the speed of these accounts, the student's and the teacher's, if it is known.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["with_code"] = _with_code
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    page = environment.get_template("page.html.j2").render(
        title=shown(title),
        sheets=dict(sheets),
        evaluated=TITLES,
        headlines=headlines,
        description={shown(name): shown(text, 500) for name, text in description.items()},
        group_charts={title: list(map(_data_uri, charts.values())) for title, charts in pictures.groups.items()},
        charts=_inlined(pictures.charts),
        panels=[
            {"name": shown(name), "kind": shown(kind), "picture": _data_uri(picture)}
            for (name, kind), picture in pictures.panels.items()
        ],
        panel_count=pictures.panel_count,
        followed=followed,
        timed=timed,
        script=Markup(script),
        script_digest=base64.b64encode(sha256(script.encode()).digest()).decode("ascii"),
        searches=[{**search, "charts": _inlined(search["charts"])} for search in searches],
        files={shown(name): links for name, links in (files or {}).items()},
        **{"overlays": None, "neighbours": None, "confusion": None, **(gallery or {})},
    )
    return page.replace("<!-- contents -->", _contents(page), 1)


def _with_code(text: str) -> Markup:
    """Escaped, with `commands` as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _contents(page: str) -> str:
    """The table of contents: the page's own headings."""
    found = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', page)
    links = "".join(f'<li><a href="#{place}">{text}</a></li>' for place, text in found)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(found) > 1 else ""


def _inlined(charts: Mapping[str, bytes]) -> dict[str, str]:
    return {Path(name).stem: _data_uri(picture) for name, picture in charts.items()}


def _data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"

"""The fonts of pictures: DejaVu Sans, which Matplotlib ships, and an East Asian one where the machine has one.

A letter that neither has is written as its escape, \\u732b say: a picture never shows an empty box in silence.
"""

import unicodedata
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

from attndistill.core.words import shown

_EAST_ASIAN = (
    *(f"Noto Sans {kind}{place}" for kind in ("CJK ", "") for place in ("JP", "SC", "TC", "KR")),
    *("Source Han Sans", "Droid Sans Fallback", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAGothic", "IPAPGothic"),
    *("TakaoGothic", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Unifont"),
)
_LONGEST_TICK = 48  # beyond, no room would be left for the bars


def lettered(text: str, *, bold: bool = False) -> tuple[str, Path]:
    """One line as a single font can draw it, and the file of that font."""
    whole, own, other = _whole(text), _dejavu(bold), east_asian()
    for font in [own, Path(other.fname)] if other else [own]:
        if _letters(font).issuperset(map(ord, whole)):
            return whole, font
    return _drawable(whole, _letters(own)), own


def families() -> list[str]:
    """Matplotlib's font families: of a text, each letter comes from the first that has it."""
    other = east_asian()
    return ["DejaVu Sans", other.name] if other else ["DejaVu Sans"]


def dress_texts(figure: Figure) -> None:
    """Make every text of a Matplotlib figure one that `families` can draw, a $ in it a $ and no formula."""
    other = east_asian()
    known = _letters(_dejavu(bold=False)) | (_letters(Path(other.fname)) if other else frozenset())

    def dressed(text: str, most: int = 200) -> str:
        return "\n".join(_drawable(_whole(line, most), known).replace("$", r"\$") for line in text.split("\n"))

    def dressed_ticks(given: Callable[[list[float]], list[str]], places: list[float]) -> list[str]:
        return [dressed(text, _LONGEST_TICK) for text in given(places)]

    for text in figure.findobj(Text):
        text.set_text(dressed(text.get_text()))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        formatter = axis.get_major_formatter()
        if not isinstance(formatter, LogFormatter):  # its powers of ten are formulas
            vars(formatter)["format_ticks"] = partial(dressed_ticks, formatter.format_ticks)


@cache
def east_asian() -> FontEntry | None:
    """The first of the known East Asian fonts that is installed."""
    found = {entry.name: entry for entry in fontManager.ttflist}
    return next((found[name] for name in _EAST_ASIAN if name in found), None)


def _whole(text: str, most: int = 200) -> str:
    return unicodedata.normalize("NFC", shown(text, most))


def _dejavu(bold: bool) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"


@cache
def _letters(font: Path) -> frozenset[int]:
    return frozenset(FT2Font(str(font)).get_charmap())


def _drawable(text: str, letters: frozenset[int]) -> str:
    return "".join(one if ord(one) in letters else one.encode("unicode_escape").decode() for one in text)

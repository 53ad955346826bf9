"""A table, laid out once: printed as HTML (page.html.j2), LaTeX, Markdown and plain text, and as CSV at full precision.

What a cell says is decided by the module that fills the sheet; here is only how each language wants it written.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import groupby
from typing import Any

from attndistill.core.words import cell

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",  # after \\ a bracket or a star would be read as its argument
    "*": "{*}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
} | {c: f"\\{c}" for c in "&%$#_{}"}
_MARKDOWN = {c: f"\\{c}" for c in "\\`*_[]<>|"} | {"\n": " "}


@dataclass(frozen=True)
class Cell:
    """A text, perhaps in bold, perhaps with a remark in small print; and the values that CSV has for it.

    `values` may be fewer than the fields of its heading: the rest is empty. On the page, `to` names the anchor that the
    cell leads to, `at` the one that it is.
    """

    text: str = ""
    bold: bool = False
    small: str = ""
    values: tuple[Any, ...] = ()
    to: str = ""
    at: str = ""


@dataclass(frozen=True)
class Heading:
    """Of a column.

    Attributes:
        name: printed; a column without one is for CSV alone.
        over: printed once above the neighbours that share it.
        left: how its cells are aligned.
        small, over_small: small print of the page below the two.
        fields: names of its values in CSV.
        brief: whether a terminal shows it.
    """

    name: str
    over: str = ""
    left: bool = False
    small: str = ""
    over_small: str = ""
    fields: tuple[str, ...] = ()
    brief: bool = True


@dataclass(frozen=True)
class Sheet:
    """Headings, groups of lines with a title each (or an empty one), and what must be said of the figures.

    Attributes:
        stamps: fields of CSV that are the same in every line.
    """

    headings: Sequence[Heading]
    groups: Sequence[tuple[str, Sequence[Sequence[Cell]]]]
    notes: Sequence[str] = ()
    stamps: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert all(len(line) == len(self.headings) for _, lines in self.groups for line in lines)

    @property
    def overheads(self) -> list[tuple[str, str, int]]:
        """Text above the headings, its small print, and how many columns it spans."""
        shared = groupby(self.headings, key=lambda heading: (heading.over, heading.over_small))
        return [(over, small, len(list(members))) for (over, small), members in shared]


def as_csv(sheet: Sheet) -> str:
    """A line for each line, at full precision; None is an empty field. No text can be taken for a formula."""
    names = [name for heading in sheet.headings for name in heading.fields]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell, [*names, *sheet.stamps]))
    for _, members in sheet.groups:
        for line in members:
            found: list[Any] = []
            for heading, filled in zip(sheet.headings, line, strict=True):
                found += [*filled.values, *[None] * (len(heading.fields) - len(filled.values))]
            writer.writerow(map(cell, [*found, *sheet.stamps.values()]))
    return text.getvalue()


def as_text(sheet: Sheet, width: int = 100) -> str:
    """For a terminal: the brief columns beside each other as far as they fit, the others below; without titles."""
    places = [place for place, heading in enumerate(sheet.headings) if heading.brief]
    lines = [[line[place].text for place in places] for _, members in sheet.groups for line in members]
    heads = [[getattr(sheet.headings[place], part) for place in places] for part in ("over", "name")]
    table = [*heads, *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    widths[0] = min(widths[0], max(20, width - sum(widths[1:]) - 2 * len(widths[1:])))
    blocks: list[list[int]] = [[]]
    for place in range(1, len(places)):
        if blocks[-1] and widths[0] + sum(widths[at] + 2 for at in [*blocks[-1], place]) > width:
            blocks.append([])
        blocks[-1].append(place)
    written = []
    for block in blocks:
        for line in table:
            cells = [_short(line[0], widths[0]), *(line[at].rjust(widths[at]) for at in block)]
            written.append("  ".join(cells).rstrip())
        written.append("")
    return "\n".join(written)


def _short(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def as_latex(sheet: Sheet) -> str:
    """A booktabs tabular, groups titled by lines across it, and the notes in small print below."""
    width = len(sheet.headings)
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{''.join('l' if heading.left else 'r' for heading in sheet.headings)}}}",
        "\\toprule",
        *_latex_overheads(sheet),
        _latex_line(tex(heading.name) for heading in sheet.headings),
    ]
    for title, members in sheet.groups:
        lines.append("\\midrule")
        if title:
            lines.append(f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{tex(title)}}}}} \\\\")
        lines += [_latex_line(map(_latex_cell, line)) for line in members]
    lines += ["\\bottomrule", "\\end{tabular}"]
    if sheet.notes:
        lines += ["", "{\\footnotesize", *(f"{tex(note)}\\par" for note in sheet.notes), "}"]
    return "\n".join([*lines, ""])


def _latex_overheads(sheet: Sheet) -> list[str]:
    heads, rules, at = [], [], 1
    for over, _, wide in sheet.overheads:
        if over:
            heads.append(f"\\multicolumn{{{wide}}}{{c}}{{{tex(over)}}}")
            rules.append(f"\\cmidrule(lr){{{at}-{at + wide - 1}}}")
        else:
            heads += [""] * wide
        at += wide
    return [_latex_line(heads), "".join(rules)] if rules else []


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _latex_cell(cell: Cell) -> str:
    text = f"\\textbf{{{tex(cell.text)}}}" if cell.bold else tex(cell.text)
    return f"{text} {{\\footnotesize ({tex(cell.small)})}}" if cell.small else text


def tex(text: str) -> str:
    """Plain text as LaTeX that prints it."""
    return "".join(_TEX.get(character, character) for character in text)


def as_markdown(sheet: Sheet) -> str:
    """A table of GitHub's Markdown, groups titled by lines of one bold cell, and the notes below it."""
    heads = [f"{heading.over}, {heading.name}" if heading.over else heading.name for heading in sheet.headings]
    lines = [_markdown_line(map(markdown, heads))]
    lines.append("|" + "|".join("---" if heading.left else "---:" for heading in sheet.headings) + "|")
    for title, members in sheet.groups:
        if title:
            lines.append(_markdown_line([f"**{markdown(title)}**", *[""] * (len(heads) - 1)]))
        lines += [_markdown_line(map(_markdown_cell, line)) for line in members]
    for note in sheet.notes:
        lines += ["", markdown(note)]
    return "\n".join([*lines, ""])


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{markdown(cell.text)}**" if cell.bold else markdown(cell.text)
    return f"{text} ({markdown(cell.small)})" if cell.small else text


def markdown(text: str) -> str:
    """Plain text as Markdown that prints it."""
    return "".join(_MARKDOWN.get(character, character) for character in text)

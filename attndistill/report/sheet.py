"""A table as it is printed, and how it is written as LaTeX and as Markdown; and lines of raw figures as CSV.

What a cell says is decided by the module that fills the sheet; here is only how either language wants it written.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import groupby
from typing import Any

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
    """A text, perhaps in bold, perhaps with a remark in small print."""

    text: str = ""
    bold: bool = False
    small: str = ""


@dataclass(frozen=True)
class Heading:
    """Of a column; `over` is printed once above the neighbours that share it."""

    name: str
    over: str = ""
    left: bool = False


@dataclass(frozen=True)
class Sheet:
    """Headings, groups of lines with a title each (or an empty one), and what must be said of the figures."""

    headings: Sequence[Heading]
    groups: Sequence[tuple[str, Sequence[Sequence[Cell]]]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert all(len(line) == len(self.headings) for _, lines in self.groups for line in lines)


def as_csv(lines: Iterable[Sequence[Any]]) -> str:
    """Lines at full precision, the header first; None is an empty field."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


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
    for over, members in groupby(sheet.headings, key=lambda heading: heading.over):
        wide = len(list(members))
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

"""The printed tables as LaTeX and Markdown: by structure, every line as wide as the table, every text escaped."""

import re

import pytest

from attndistill.report.sheet import Cell, Heading, Sheet, as_latex, as_markdown, markdown, tex

HEADINGS = [Heading("Method", left=True), Heading("top-1 (%)", "k-NN"), Heading("top-5 (%)", "k-NN"), Heading("n")]
SHEET = Sheet(
    HEADINGS,
    [
        ("", [[Cell("Teacher & co"), Cell("90.1"), Cell(), Cell("1")]]),
        ("(b) 50 %", [[Cell("[a]_b", small="layer_1"), Cell("89.0 ± 0.4", bold=True), Cell("−1.0"), Cell("3")]]),
    ],
    ["p < 0.05"],
)


def cells(line: str) -> int:
    """How many columns a line of a tabular fills."""
    spans = map(int, re.findall(r"\\multicolumn\{(\d+)\}", line))
    return len(re.split(r"(?<!\\)&", line)) + sum(span - 1 for span in spans)


def check_latex(text: str) -> None:
    """One tabular whose lines are as wide as its columns; braces balance, nothing special is left as it is."""
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lrc]+)\}", text)
    inside = text.partition(f"{{{columns}}}\n")[2].partition("\\end{tabular}")[0]
    lines = [line for line in inside.splitlines() if not re.match(r"\\(top|mid|bottom|cmid)rule", line)]
    assert lines
    assert all(line.endswith(r" \\") for line in lines)
    assert {cells(line) for line in lines} == {len(columns)}
    for first, last in re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", text):
        assert 1 <= int(first) <= int(last) <= len(columns)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[\\&%$#_{}]", "", code)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert re.findall(r"[%#~^<>]", bare) == []
    assert re.findall(r"_", bare) == []


def check_markdown(text: str) -> None:
    """A table whose lines are all as wide as its header."""
    table = text.partition("\n\n")[0].strip().splitlines()
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in table}) == 1


def test_latex_has_group_titles_across_and_notes_below():
    text = as_latex(SHEET)
    check_latex(text)
    assert r"\multicolumn{4}{l}{\emph{(b) 50 \%}} \\" in text
    assert r" & \multicolumn{2}{c}{k-NN} &  \\" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert r"{[}a]\_b {\footnotesize (layer\_1)} & \textbf{89.0 $\pm$ 0.4} & $-$1.0 & 3 \\" in text
    assert text.endswith("{\\footnotesize\np \\textless{} 0.05\\par\n}\n")


def test_markdown_has_group_titles_in_bold_and_notes_below():
    assert as_markdown(SHEET).splitlines() == [
        "| Method | k-NN, top-1 (%) | k-NN, top-5 (%) | n |",
        "|---|---:|---:|---:|",
        "| Teacher & co | 90.1 |  | 1 |",
        "| **(b) 50 %** |  |  |  |",
        r"| \[a\]\_b (layer\_1) | **89.0 ± 0.4** | −1.0 | 3 |",
        "",
        r"p \< 0.05",
    ]


def test_text_is_escaped_in_both_languages():
    assert tex(r"a\b ~^ <x> 5% & #1 {$}") == (
        r"a\textbackslash{}b \textasciitilde{}\textasciicircum{} \textless{}x\textgreater{} 5\% \& \#1 \{\$\}"
    )
    assert markdown("a|b *c* <d>\ne") == r"a\|b \*c\* \<d\> e"


def test_every_table_of_a_whole_report_is_well_formed(ablation):
    ablation.build()
    for name in ("table", "differences", "claims"):
        check_latex((ablation.destination / f"{name}.tex").read_text())
        check_markdown((ablation.destination / f"{name}.md").read_text())


@pytest.mark.parametrize("name", ["table", "differences", "claims"])
def test_every_table_names_how_its_figures_were_made(ablation, name):
    ablation.build()
    for suffix in ("csv", "tex", "md"):
        text = (ablation.destination / f"{name}.{suffix}").read_text().replace("\\", "")
        for told in ("knn/dino-v1", "cls_token before the projector", "ab" * 32, "cd" * 32):
            assert told in text, f"{name}.{suffix} lacks {told}"

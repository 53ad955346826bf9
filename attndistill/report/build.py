"""Results to a report directory: one self-contained index.html, its tables as CSV, LaTeX and Markdown, figures/*.png
and attn_vis/<class>/*.png.

The heavy imports (Matplotlib, pydantic, Jinja) happen inside the call: the command line imports this module.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.core.artifacts import replacing_directory

if TYPE_CHECKING:
    from attndistill.report.claims import Claim
    from attndistill.report.columns import Column
    from attndistill.report.comparison import Comparison
    from attndistill.report.page import Pictures
    from attndistill.report.results import Row
    from attndistill.report.search import Found
    from attndistill.report.sheet import Sheet

INLINE_PANELS = 12  # the page stays a few megabytes; figures/attention/ holds them all


def build_report(
    results: Path,
    outputs: Path,
    destination: Path,
    *,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    description: Mapping[str, str],
    searches: Path | None = None,
    claims: Sequence[Mapping[str, Any]] = (),
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read what the stages wrote and write the report; figures that nobody measured stay empty.

    Args:
        results: holds probes/, attention/, training/ and pretrain_probe/.
        outputs: holds attention/<model>/maps.npz.
        destination: the report's directory, replaced as a whole once everything is written.
        title: of the page.
        rows: the table's lines in order, as `read_rows` takes them.
        description: provenance printed on the page, name -> text.
        searches: holds the outcome of each study, a JSON file; None where nothing was searched.
        claims: of the paper, as `claims.judge` takes them; judged by paired tests over seeds.
        data: class_list_sha256 and data_digest of the experiment's data, where figures of others are to be refused.

    Returns:
        The table, the paired comparisons and the judged claims as nested numbers, for `dvc metrics`.

    Raises:
        ValueError: files that are broken, figures of different data, classes, protocols or teachers, or a destination
            that would swallow what is read or something that is no report.
    """
    from attndistill.report.claims import claims_dict, judge
    from attndistill.report.columns import columns_of
    from attndistill.report.comparison import compare, comparisons_dict
    from attndistill.report.page import render_page
    from attndistill.report.results import read_rows
    from attndistill.report.search import read_searches
    from attndistill.report.table import as_dict

    _check_destination(destination, (results, outputs))
    read = read_rows(results, outputs, rows, data=data)
    columns = columns_of(read)
    comparisons = compare(read, columns)
    judged = judge(claims, read, columns)
    found = read_searches(searches) if searches else []
    with replacing_directory(destination) as beside:
        pictures = _write_figures(beside / "figures", read, columns)
        sections = _write_searches(beside, found)
        page = render_page(
            read, columns, comparisons, pictures, title=title, description=description, searches=sections, claims=judged
        )
        (beside / "index.html").write_text(page, encoding="utf-8")
        _write_tables(beside, read, columns, comparisons, judged)
    table = {"models": as_dict(read, columns), "differences": comparisons_dict(comparisons)}
    return {**table, "claims": claims_dict(judged)} if judged else table


def _check_destination(destination: Path, read: Sequence[Path]) -> None:
    """Refuse to replace a directory that is not a report."""
    place = destination.resolve()
    for source in read:
        if source.resolve().is_relative_to(place):
            raise ValueError(f"report destination {destination} holds {source}, a directory of its own allowed")
    if place.exists() and any(place.iterdir()) and not (place / "index.html").exists():
        raise ValueError(f"report destination {destination} holds something else, an empty or earlier report allowed")


def _write_tables(
    directory: Path,
    rows: Sequence["Row"],
    columns: Sequence["Column"],
    comparisons: Sequence["Comparison"],
    claims: Sequence["Claim"],
) -> None:
    """The table, and differences and claims where there are any."""
    from attndistill.report.claims import claims_csv, claims_sheet
    from attndistill.report.comparison import comparisons_csv, comparisons_sheet
    from attndistill.report.table import table_csv, table_sheet

    _write_table(directory / "table", table_csv(rows, columns), table_sheet(rows, columns))
    if comparisons:
        sheet = comparisons_sheet(comparisons, rows, columns)
        _write_table(directory / "differences", comparisons_csv(comparisons, rows), sheet)
    if claims:
        _write_table(directory / "claims", claims_csv(claims, rows, columns), claims_sheet(claims, rows, columns))


def _write_table(path: Path, figures: str, sheet: "Sheet") -> None:
    """path.csv, path.tex and path.md."""
    from attndistill.report.sheet import as_latex, as_markdown

    for suffix, text in {"csv": figures, "tex": as_latex(sheet), "md": as_markdown(sheet)}.items():
        path.with_name(f"{path.name}.{suffix}").write_text(text, encoding="utf-8")


def _write_searches(directory: Path, found: Sequence["Found"]) -> list[dict[str, Any]]:
    """The figures and tables of every study as files; gives what the page says of each."""
    from attndistill.report.search import figures_of, search_csv, search_sheet, section_of

    sections = []
    for study in found:
        drawn = figures_of(study)
        (directory / "figures" / "search" / study.name).mkdir(parents=True)
        for name, picture in drawn.items():
            (directory / "figures" / "search" / study.name / name).write_bytes(picture)
        (directory / "search").mkdir(exist_ok=True)
        section = section_of(study, drawn)
        _write_table(directory / "search" / study.name, search_csv(study), search_sheet(section))
        sections.append(section)
    return sections


def _write_figures(directory: Path, rows: Sequence["Row"], columns: Sequence["Column"]) -> "Pictures":
    """Charts and comparison panels as files; the panels for the page are evenly spaced over all images."""
    from attndistill.figures.attention import png_bytes
    from attndistill.figures.export import export_by_class, safe_names
    from attndistill.report.page import Pictures
    from attndistill.report.pictures import charts, comparison_panels, group_charts

    directory.mkdir()
    drawn = charts(rows, columns)
    for name, picture in drawn.items():
        (directory / name).write_bytes(picture)
    grouped = group_charts(rows, columns)
    for pictures in grouped.values():
        (directory / "groups").mkdir(exist_ok=True)
        for name, picture in pictures.items():
            (directory / "groups" / name).write_bytes(picture)
    compared = comparison_panels(rows)
    panels = {(panel.name, panel.kind): png_bytes(panel.draw()) for panel in compared if panel.featured}
    if compared:
        kinds, names = [panel.kind for panel in compared], [panel.name for panel in compared]
        export_by_class(directory.parent / "attn_vis", kinds, names, lambda number: compared[number].draw())
    if panels:
        (directory / "attention").mkdir()
        files = safe_names([name for name, _ in panels])
        for safe, picture in zip(files, panels.values(), strict=True):
            (directory / "attention" / f"{safe}.png").write_bytes(picture)
    every = max(1, -(-len(panels) // INLINE_PANELS))
    inline = dict(list(panels.items())[::every])
    return Pictures(drawn, inline, len(panels), grouped)

"""Results to a report directory: table.csv, table.tex, figures/*.png, attn_vis/<class>/*.png and one
self-contained index.html.

The heavy imports (Matplotlib, pydantic, Jinja) happen inside the call: the command line imports this module.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.core.artifacts import replacing_directory

if TYPE_CHECKING:
    from attndistill.report.page import Pictures
    from attndistill.report.results import Row
    from attndistill.report.search import Found
    from attndistill.report.table import Column

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
        claims: of the paper: {"claim", "better", "worse"}, names of rows paired; judged by paired tests over seeds.

    Returns:
        The table, the paired comparisons and the judged claims as nested numbers, for `dvc metrics`.

    Raises:
        ValueError: files that are broken, figures of different data, classes, protocols or teachers, or a destination
            that would swallow what is read or something that is no report.
    """
    from attndistill.report.claims import claims_csv, claims_dict, judge
    from attndistill.report.comparison import TEACHER, compare, comparisons_dict
    from attndistill.report.page import render_page
    from attndistill.report.results import read_rows
    from attndistill.report.search import read_searches
    from attndistill.report.table import as_csv, as_dict, as_tex, columns_of

    _check_destination(destination, (results, outputs))
    read = read_rows(results, outputs, rows)
    columns = columns_of(read)
    comparisons = compare(read, columns)
    judged = judge(claims, read, columns)
    found = read_searches(searches) if searches else []
    teacher = next((index for index, row in enumerate(read) if row.name == TEACHER), None)
    with replacing_directory(destination) as beside:
        pictures = _write_figures(beside / "figures", read, columns)
        sections = _write_searches(beside / "figures", found)
        page = render_page(
            read, columns, comparisons, pictures, title=title, description=description, searches=sections, claims=judged
        )
        (beside / "index.html").write_text(page, encoding="utf-8")
        (beside / "table.csv").write_text(as_csv(read, columns), encoding="utf-8")
        (beside / "table.tex").write_text(as_tex(read, columns, teacher=teacher), encoding="utf-8")
        if judged:
            (beside / "claims.csv").write_text(claims_csv(judged), encoding="utf-8")
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


def _write_searches(directory: Path, found: Sequence["Found"]) -> list[dict[str, Any]]:
    """The figures of every study as files; gives what the page says of each."""
    from attndistill.report.search import figures_of, section_of

    sections = []
    for study in found:
        drawn = figures_of(study)
        (directory / "search" / study.name).mkdir(parents=True)
        for name, picture in drawn.items():
            (directory / "search" / study.name / name).write_bytes(picture)
        sections.append(section_of(study, drawn))
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

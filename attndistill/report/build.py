"""Results to a report directory: one self-contained index.html, its tables as CSV, LaTeX and Markdown, figures/*.png
and attn_vis/<class>/*.png.

The heavy imports (Matplotlib, pydantic, Jinja) happen inside the call: the command line imports this module.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from attndistill.core.artifacts import replacing_directory, write_text

if TYPE_CHECKING:
    from attndistill.config.rows import RowsFile
    from attndistill.outcomes import Outcome
    from attndistill.report.columns import Column
    from attndistill.report.entries import Entry
    from attndistill.report.page import Pictures
    from attndistill.report.pictures import Looks
    from attndistill.report.sheet import Sheet
    from attndistill.report.speeds import Sized
    from attndistill.results import TableFile

INLINE_PANELS = 12  # the page stays a few megabytes; figures/attention/ holds them all
KEPT = ("report/table.json", "metrics.json", "curves/loss.csv", "curves/pretraining.csv")  # below results/, by git
TABLE, METRICS, LOSSES, ACCURACIES = KEPT


@dataclass(frozen=True)
class Built:
    """What a report has for git and for the terminal.

    Attributes:
        table: every figure of the report.
        curves: file name -> CSV, for `dvc plots`.
        words: the table in a hundred columns, where the report lies, the best student, notes.
        sized: whose speed belongs beside the page.
    """

    table: "TableFile"
    curves: Mapping[str, str]
    words: str
    sized: Sequence["Sized"] = ()

    def write(self, results: Path) -> list[Path]:
        """The files for git, below results/<experiment>; gives their paths."""
        from attndistill.results import flat_metrics

        self.table.write(results / TABLE)
        flat_metrics(self.table).write(results / METRICS)
        for name, text in self.curves.items():
            write_text(results / name, text)
        return [results / name for name in (TABLE, METRICS, *self.curves)]


def build_report(
    results: Path,
    outputs: Path,
    destination: Path,
    *,
    title: str,
    rows: "RowsFile",
    pretrained: Mapping[str, str],
    description: Mapping[str, str],
    model_folder: Callable[[str], Path],
    searches: Path | None = None,
    data: Mapping[str, str] | None = None,
    datasets: Mapping[str, Mapping[str, str]] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Built:
    """Read what the stages wrote and write the report; figures that nobody measured stay empty.

    Args:
        results: holds probes/, attention/, and training/.
        outputs: holds attention/<model>/maps.npz.
        destination: the report's directory, replaced as a whole once everything is written.
        title: of the page.
        rows: of the experiment; its claims are judged by paired tests over seeds.
        pretrained: name -> label of the pre-trained models, which stand first, where `rows` gives them none.
        description: provenance printed on the page, name -> text.
        model_folder: where a model's weights lie.
        searches: holds the outcome of each study, a JSON file; None where nothing was searched.
        data: class_list_sha256 and data_digest of the experiment's data, where figures of others are to be refused.
        datasets: the same of every further data set that the models are judged on, by name; empty where not known.
        settings: model -> dotted key -> value of what it was trained with.

    Raises:
        ValueError: files that are broken, figures of different data, classes, protocols or teachers, or a destination
            that would swallow what is read or something that is no report.
    """
    from attndistill.outcomes import read_outcomes
    from attndistill.report import differences, evaluated, gallery, made, table
    from attndistill.report.columns import columns_of
    from attndistill.report.entries import on_data_set, read_entries
    from attndistill.report.page import render_page
    from attndistill.report.pictures import read_looks
    from attndistill.report.speeds import sized
    from attndistill.results import TableFile

    _check_destination(destination, (results, outputs))
    entries = read_entries(results, outputs, rows, pretrained, data)
    columns = columns_of(entries)
    compared = differences.compare(entries, columns)
    claims = differences.judge(rows.claims, entries, columns)
    exhibits = gallery.read_exhibits(outputs, entries)
    sheets = {"table": table.table_sheet(entries, columns)}
    if sizes := gallery.sizes_sheet(entries, exhibits):
        sheets["sizes"] = sizes
    further = {name: on_data_set(entries, results, name, digests) for name, digests in (datasets or {}).items()}
    sheets |= {f"table@{name}": table.table_sheet(judged, columns_of(judged), name) for name, judged in further.items()}
    told_how = {f"made@{name}": made.made_sheet(judged, columns_of(judged), name) for name, judged in further.items()}
    told_how["made"] = made.made_sheet(entries, columns)
    told_how["settings"] = made.settings_sheet(entries, settings or {})
    told_how["chosen"] = table.chosen_sheet(entries, columns)
    blocks = evaluated.blocks_of(entries, further)
    sheets |= evaluated.sheets(blocks)
    if compared:
        sheets["differences"] = differences.differences_sheet(compared, entries, columns)
    if claims:
        sheets["claims"] = differences.claims_sheet(claims, entries, columns)
    found, looks, best = read_outcomes(searches), read_looks(entries), gallery.best_student(entries, columns)
    student = exhibits.get(best[0].name) if best else None
    timed, size = sized(exhibits, best[0].name if best else None), gallery.size_sentence(entries, columns, exhibits)
    shown = {
        "overlays": gallery.overlays(looks),
        "neighbours": gallery.neighbours(exhibits.get("teacher"), student),
        "confusion": gallery.confusion(student),
    }
    weights = {entry.label: model_folder(entry.name) for entry in entries if entry.training}
    with replacing_directory(destination) as beside:
        sweeps = evaluated.pictures(blocks)
        pictures = _write_figures(beside / "figures", entries, columns, looks, sweeps)
        page = render_page(
            {**sheets, **told_how},
            pictures,
            title=title,
            headlines=size + differences.headlines(compared, claims),
            timed=[one.account for one in timed[:2]] if size else [],
            description=description,
            searches=_write_searches(beside, found),
            gallery=shown,
            followed=[entry.label for entry in entries if entry.is_distilled and entry.accuracy],
            files=_files(beside, sheets, weights, destination),
        )
        (beside / "index.html").write_text(page, encoding="utf-8")
        for name, sheet in sheets.items():
            _write_sheet(beside / name, sheet, sheet)
    models, paired = table.models_table(entries, columns), differences.differences_table(compared)
    told: dict[str, Any] = {"claims": differences.claims_table(claims)} if claims else {}
    if further:
        told["datasets"] = {name: table.models_table(one, columns_of(one)) for name, one in further.items()}
    words = table.closing_words(entries, columns, destination / "index.html", model_folder)
    return Built(TableFile(models=models, differences=paired, **told), _curves(entries, list(pretrained)), words, timed)


def _files(
    written: Path, sheets: Mapping[str, "Sheet"], models: Mapping[str, Path], destination: Path
) -> dict[str, list[tuple[str, str]]]:
    """Links to what lies beside the page, and to the weights, whether they are on this machine or not."""
    pictures = [(name, f"{name}/") for name in ("figures", "attn_vis") if (written / name).is_dir()]
    weights = [(label, os.path.relpath(folder, destination)) for label, folder in models.items()]
    links = {
        **{f"Table {name}": [(f"{name}.{kind}", f"{name}.{kind}") for kind in ("csv", "tex", "md")] for name in sheets},
        "Pictures": pictures,
        "Weights": weights,
    }
    return {name: [(text, quote(place)) for text, place in listed] for name, listed in links.items() if listed}


def _check_destination(destination: Path, read: Sequence[Path]) -> None:
    """Refuse to replace a directory that is not a report."""
    place = destination.resolve()
    for source in read:
        if source.resolve().is_relative_to(place):
            raise ValueError(f"report destination {destination} holds {source}, a directory of its own allowed")
    if place.exists() and any(place.iterdir()) and not (place / "index.html").exists():
        raise ValueError(f"report destination {destination} holds something else, an empty or earlier report allowed")


def _write_sheet(path: Path, sheet: "Sheet", figures: "Sheet") -> None:
    """path.csv (of `figures`), path.tex and path.md."""
    from attndistill.report.sheet import as_csv, as_latex, as_markdown

    for suffix, text in {"csv": as_csv(figures), "tex": as_latex(sheet), "md": as_markdown(sheet)}.items():
        path.with_name(f"{path.name}.{suffix}").write_text(text, encoding="utf-8")


def _write_searches(directory: Path, found: Sequence["Outcome"]) -> list[dict[str, Any]]:
    """The figures and tables of every study as files; gives what the page says of each."""
    from attndistill.report.search import every_trial, figures_of, section_of

    sections = []
    for study in found:
        drawn = figures_of(study)
        (directory / "figures" / "search" / study.study).mkdir(parents=True)
        for name, picture in drawn.items():
            (directory / "figures" / "search" / study.study / name).write_bytes(picture)
        (directory / "search").mkdir(exist_ok=True)
        section = section_of(study, drawn)
        _write_sheet(directory / "search" / study.study, section["sheet"], every_trial(study))
        sections.append(section)
    return sections


def curve_columns(rows: "RowsFile", pretrained: Sequence[str], followed: Sequence[str]) -> dict[str, list[str]]:
    """The columns of each file of curves beside `epoch`: what a plot of DVC names; `followed` rows have accuracies."""
    pictured = [name for name in rows.rows if rows.pictures is None or name in rows.pictures]
    return {LOSSES: [*pretrained, *pictured], ACCURACIES: [*pretrained, *followed]}


def _curves(entries: Sequence["Entry"], pretrained: Sequence[str]) -> dict[str, str]:
    """A line an epoch, a column a model, means over seeds: `dvc plots` draws them on one axis."""
    import numpy as np

    from attndistill.report.pictures import loss_terms

    shown = [entry for entry in entries if entry.pictured]
    losses = {entry.name: loss_terms(entry).get("loss") for entry in shown}
    accuracies = {entry.name: entry.accuracy for entry in entries if entry.name in pretrained or entry.accuracy}
    written = {}
    for file, curves in ((LOSSES, losses), (ACCURACIES, accuracies)):
        means = {n: dict(zip(c[0], np.nanmean(c[1], axis=0), strict=True)) if c else {} for n, c in curves.items()}
        lines = [["epoch", *curves]]
        for epoch in sorted(set().union(*means.values())):
            lines.append([f"{epoch:g}", *(f"{means[n][epoch]:.9g}" if epoch in means[n] else "" for n in curves)])
        written[file] = "".join(f"{','.join(line)}\n" for line in lines)
    return written


def _write_figures(
    directory: Path,
    entries: Sequence["Entry"],
    columns: Sequence["Column"],
    looks: "Looks | None",
    sweeps: Mapping[str, bytes],
) -> "Pictures":
    """Charts and comparison panels as files; the panels for the page are evenly spaced over all images."""
    from attndistill.figures.attention import png_bytes
    from attndistill.figures.export import export_by_class, safe_names
    from attndistill.report.page import Pictures
    from attndistill.report.pictures import charts, comparison_panels, group_charts

    directory.mkdir()
    drawn = {**charts(entries, columns), **sweeps}
    for name, picture in drawn.items():
        (directory / name).write_bytes(picture)
    grouped = group_charts(entries, columns)
    for pictures in grouped.values():
        (directory / "groups").mkdir(exist_ok=True)
        for name, picture in pictures.items():
            (directory / "groups" / name).write_bytes(picture)
    compared = comparison_panels(looks)
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

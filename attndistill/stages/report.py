"""The report, from result files alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.stages.declaration import Item, Stage
from attndistill.stages.layout import Layout

if TYPE_CHECKING:
    from attndistill.config import Teacher
    from attndistill.config.rows import Model, Row
    from attndistill.stages.context import Context

TITLE = "Attention distillation"


def run(context: "Context") -> None:
    """Write outputs/report (the page, its tables, its figures) and the table as metrics."""
    from attndistill.core.artifacts import write_json
    from attndistill.report.build import build_report

    layout = context.layout
    table = build_report(
        layout.results,
        layout.outputs,
        layout.report,
        title=f"{TITLE}: {layout.experiment}",
        rows=_rows(context),
        data=_data(context),
        description=_description(context),
        searches=layout.searches / "found",
        claims=[claim.model_dump() for claim in context.rows.claims],
    )
    path = layout.result("report", "table.json")
    write_json(path, table)
    context.journal.artifact(layout.report, folder="report")
    context.journal.artifact(path, folder="results")
    context.record_data("test", "evaluation")


def _rows(context: "Context") -> list[dict[str, Any]]:
    """The table's lines: the teacher, the student from scratch, the distilled rows."""
    from attndistill.config.rows import Model

    file = context.rows
    usual = {"teacher": f"Teacher ({_origin(context.config.teacher)})", "scratch": "Student from scratch (MAE)"}
    lines: list[dict[str, Any]] = []
    for name, label in usual.items():
        said = file.models.get(name, Model())
        lines.append({"name": name, "label": said.label or label, "paper": _paper(said)})
    for name, row in file.rows.items():
        pictured = file.pictures is None or name in file.pictures
        told = {"name": name, "label": row.label, "group": row.group, "paper": _paper(row)}
        lines.append({**told, "settings": row.set, "pictured": pictured})
    return lines


def _paper(said: "Model | Row") -> tuple[float | None, float | None]:
    return (said.paper.top1, said.paper.top5) if said.paper else (None, None)


def _data(context: "Context") -> dict[str, str]:
    """What every figure must have been measured on."""
    from attndistill.data.store import read_manifest

    manifest = read_manifest(context.layout.data)
    return {"class_list_sha256": manifest["class_list_sha256"], "data_digest": manifest["digest"]}


def _description(context: "Context") -> dict[str, str]:
    """How the figures came about, without times or run numbers."""
    from attndistill.data.store import read_manifest

    config, manifest = context.config, read_manifest(context.layout.data)
    counts = ", ".join(f"{part['count']} {name}" for name, part in manifest["splits"].items())
    views, epochs = config.targets.views, config.distill.recipe.epochs
    shared = "the paper's method" if views == epochs else f"epoch e uses view e mod {views}"
    return {
        "Data": f"{manifest['dataset']} ({counts} images, {len(manifest['class_names'])} classes)",
        "Data digest": manifest["digest"],
        "Class list SHA-256": manifest["class_list_sha256"],
        "Teacher": _teacher(context),
        "Students": f"{_size(config.student.plain())}, {epochs} epochs of distillation, seeds {_listed(config.seeds)}",
        "Views": f"V = {views} for {epochs} epochs ({shared}); the same views for every row and seed",
        "Base configuration": config.digest("data", "views", "teacher", "student", "pretrain", "targets", "distill"),
    }


def _origin(teacher: "Teacher") -> str:
    """Where the teacher comes from, in a word or two."""
    if teacher.source is None:
        return "MAE"
    return str(teacher.source.timm_name or Path(teacher.source.path).name)


def _teacher(context: "Context") -> str:
    """What the teacher is and where it learned; of a released one, as it was found, not as it was configured."""
    config = context.config
    if config.teacher.source is None:
        return f"{_size(config.teacher.sizes())}, {config.pretrain.recipe.epochs} epochs of masked autoencoding"
    from attndistill.core.artifacts import read_json

    load = read_json(context.layout.result("training", "teacher.json"))["load"]
    return f"{_size(load)}, released: {load['file']} ({load['format']}), SHA-256 {load['sha256'] or 'not known'}"


def _size(vit: Mapping[str, Any]) -> str:
    return (
        f"ViT width {vit['embed_dim']}, depth {vit['depth']}, {vit['num_heads']} heads, "
        f"patch {vit['patch_size']}, {vit['position']} positions"
    )


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))


def _inputs(layout: Layout, item: Item) -> list[Path]:
    kinds = ("attention", "pretrain_probe", "probes", "training")
    searches = [layout.searches] if layout.searches.exists() else []  # an experiment need not search anything
    return [layout.data, layout.outputs / "attention", *searches, *(layout.results / kind for kind in kinds)]


STAGE = Stage(
    "report",
    "tables (CSV, LaTeX), figures, one HTML page that works offline",
    run,
    lambda item: ("seeds", "views", "teacher", "student", "pretrain", "targets", "distill"),
    _inputs,
    lambda layout, item: [layout.report, layout.result("report", "table.json")],
    report=True,
    estimate="attndistill.costs.evaluation:report",
)

"""The report, from result files alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.report.build import KEPT
from attndistill.stages.declaration import Item, Stage
from attndistill.stages.layout import MODELS, Layout

if TYPE_CHECKING:
    from attndistill.config import Teacher
    from attndistill.stages.context import Context

TITLE = "Attention distillation"


def run(context: "Context") -> None:
    """Write outputs/report (page, tables, figures); below results/ the table, DVC's metrics and the curves it plots.

    Beside the page, and an output of nothing, lie the speeds of its models on this machine.
    """
    from attndistill.report.build import build_report
    from attndistill.report.speeds import update

    layout, config = context.layout, context.config
    built = build_report(
        layout.results,
        layout.outputs,
        layout.report,
        title=f"{TITLE}: {layout.experiment}",
        rows=context.rows,
        pretrained={"teacher": f"Teacher ({_origin(config.teacher)})", "scratch": "Student from scratch (MAE)"},
        data=_digests(layout.data),
        datasets=judged_on(layout, list(config.datasets)),
        settings=_settings(context),
        description=_description(context),
        model_folder=layout.model,
        searches=layout.searches / "found",
    )
    context.journal.artifact(layout.report, folder="report")
    for path in built.write(layout.results):
        context.journal.artifact(path, folder="results")
    context.record_data("test", "evaluation")
    print(built.words, end="")
    if config.runtime.speeds:
        print(update(layout.speeds, built.sized, layout.weights))


def judged_on(layout: Layout, datasets: list[str]) -> dict[str, dict[str, str]]:
    """Those of which there are results, with their digests where the images are here: the page is the same without."""
    judged = {path.stem.partition("@")[2] for path in (layout.results / "probes").glob("*@*.json")}
    places = {name: layout.prepared(name) for name in datasets if name in judged}
    return {name: _digests(place) if place.exists() else {} for name, place in places.items()}


def _digests(prepared: Path) -> dict[str, str]:
    from attndistill.data.manifest import read_manifest

    manifest = read_manifest(prepared)
    return {"class_list_sha256": manifest["class_list_sha256"], "data_digest": manifest["digest"]}


def _description(context: "Context") -> dict[str, str]:
    """How the figures came about, without times or run numbers."""
    from attndistill.core.artifacts import read_json
    from attndistill.data.manifest import read_manifest

    config, manifest = context.config, read_manifest(context.layout.data)
    labels = "no labels" if manifest.get("labelled") is False else f"{len(manifest['class_names'])} classes"
    counts = ", ".join(f"{part['count']} {name}" for name, part in manifest["splits"].items())
    views, epochs = config.targets.views, config.distill.recipe.epochs
    shared = "the paper's method" if views == epochs else f"epoch e uses view e mod {views}"
    pixels = config.views.told()
    return {
        "Data": f"{manifest['dataset']} ({counts} images, {labels})",
        "Data digest": manifest["digest"],
        "Class list SHA-256": manifest["class_list_sha256"],
        "Teacher": _teacher(context),
        "Teacher's weights, SHA-256": read_json(context.teacher_weights / "model.json")["weights_sha256"],
        "Students": f"{_size(config.student.plain())}, {epochs} epochs of distillation, seeds {_listed(config.seeds)}",
        "Views": f"V = {views} for {epochs} epochs ({shared}); the same views for every row and seed{pixels}",
        "Base configuration": config.digest("data", "views", "teacher", "student", "pretrain", "targets", "distill"),
    }


def _settings(context: "Context") -> dict[str, dict[str, Any]]:
    """Of each model that was trained here, by dotted key."""
    from attndistill.config import flat, nested, resolve

    base = context.config.plain()
    rows = {name: flat(resolve([base, nested(row.set)]).plain()) for name, row in context.rows.rows.items()}
    trained = MODELS if context.config.teacher.source is None else MODELS[1:]
    return {**dict.fromkeys(trained, flat(base)), **rows}


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
    from attndistill.results import TrainingFile

    load = TrainingFile.read(context.layout.result("training", "teacher.json")).load or {}
    return f"{_size(load)}, released: {load['file']} ({load['format']}), SHA-256 {load['sha256'] or 'not known'}"


def _size(vit: Mapping[str, Any]) -> str:
    return (
        f"ViT width {vit['embed_dim']}, depth {vit['depth']}, {vit['num_heads']} heads, "
        f"patch {vit['patch_size']}, {vit['position']} positions"
    )


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))


def _inputs(layout: Layout, item: Item) -> list[Path]:
    kinds = ("attention", "probes", "training")
    searches = [layout.searches] if layout.searches.exists() else []  # an experiment need not search anything
    shown = [layout.outputs / "attention", layout.outputs / "exhibits"]
    results = [layout.results / kind for kind in kinds]
    return [layout.data, layout.model("teacher"), *shown, *searches, *results]


STAGE = Stage(
    "report",
    "tables (CSV, LaTeX), figures, one HTML page that works offline",
    run,
    lambda item: ("seeds", "views", "teacher", "student", "pretrain", "targets", "distill"),
    _inputs,
    lambda layout, item: [
        layout.report,
        *(layout.results / name for name in KEPT),
    ],
    report=True,
    estimate="attndistill.costs.evaluation:report",
    light=True,
)

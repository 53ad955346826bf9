"""A finished model for programs that have none of our code, as a stage: what `exports` of params.yaml asks for."""

from pathlib import Path
from typing import TYPE_CHECKING

from attndistill.stages.declaration import Item, Stage
from attndistill.stages.layout import Layout

if TYPE_CHECKING:
    from attndistill.stages.context import Context


def run(context: "Context") -> None:
    """Write outputs/exported/<model>, each form held against torch and by its k-NN figure on the test images.

    Its card has no speeds: those depend on the machine and the moment, and a stage gives the same bytes twice. The
    command `attndistill export MODEL --to FOLDER` measures them.
    """
    from dataclasses import replace

    from attndistill.handover.exporting import export_finished
    from attndistill.handover.models import open_finished

    if not context.is_main:
        return
    name, layout = context.item.name, context.layout
    wanted = context.config.exports[name]
    finished = replace(open_finished(name, layout.folder, {}), config=context.config)
    to = layout.exported(name)
    export_finished(
        finished, to, formats=wanted.formats, licence=wanted.licence, head=wanted.head or "", measured=False
    )
    context.record_data("test", "evaluation")
    context.journal.artifact(to, folder="export")


def _inputs(layout: Layout, item: Item) -> list[Path]:
    names = dict.fromkeys(["teacher", item.name])
    models, maps = [layout.model(name) for name in names], [layout.attention(name) for name in names]
    results = [layout.result(kind, f"{item.name}.json") for kind in ("attention", "probes")]
    return [layout.data, *models, *maps, *results, layout.result("training", "teacher.json")]


STAGE = Stage(
    "export",
    "a folder that timm opens, graphs, a model card: nothing of ours",
    run,
    lambda item: ("seeds", "teacher_seed", "views", "student", "targets", "distill", "probe", f"exports.{item.name}"),
    _inputs,
    lambda layout, item: [layout.exported(item.name)],
    over="export",
)

"""Accuracy over the epochs of a distillation: the first student of a row, trained again and judged on the way.

Students are stored at their end alone, and to judge them on the way costs time that a figure does not need. So this is
a stage of its own, for the rows that ask for it (`follow` in rows.yaml). The curve is shown; nothing is chosen by it.
"""

from functools import partial
from typing import TYPE_CHECKING

from attndistill.stages.declaration import Stage

if TYPE_CHECKING:
    import torch

    from attndistill.stages.context import Context


def run(context: "Context") -> None:
    """Write results/pretrain_probe/<row>.csv: the probe of pre-training's own curve, at some epochs and at the end.

    Raises:
        ValueError: images without labels.
    """
    from attndistill.core.progress import say
    from attndistill.data.manifest import read_manifest
    from attndistill.data.store import validation_indices
    from attndistill.distillation import distil_student, open_teaching
    from attndistill.evaluations.embedding import probe_data
    from attndistill.models.storage import load_model
    from attndistill.pretraining import probe_point
    from attndistill.results import ProbeCurve

    config, name, layout = context.config, context.item.name, context.layout
    manifest, every = read_manifest(layout.data), context.rows.rows[name].follow or 1
    if manifest.get("labelled") is False:
        raise ValueError(f"rows.{name}.follow: these images have no labels; allowed: rows without follow")
    images, test, identity = context.images("train"), context.images("test"), context.targets_identity
    teacher, _ = load_model(context.teacher_weights)
    execution, seed = context.execution, config.seeds[0]
    validation, epochs = validation_indices(layout.data), config.distill.recipe.epochs

    def look(seed: int, backbone: "torch.nn.Module", epoch: int) -> dict[str, float] | None:
        features = partial(
            probe_data,
            backbone,
            images,
            test,
            context.views,
            validation=validation,
            classes=len(manifest["class_names"]),
            crop_share=config.views.evaluation_crop,
            batch_size=execution.evaluation_batch_size,
            device=execution.device,
        )
        return probe_point(epoch, every, epochs, features)

    trained = distil_student(
        teacher,
        open_teaching(teacher, config.distill, config.targets, layout.targets, identity, execution.device),
        images,
        context.views,
        config.student.plain(),
        config.distill,
        execution,
        context.checkpoint(seed, identity, "student", "views", "targets", "distill"),
        seed=seed,
        stored_views=config.targets.views,
        look=look,
    )
    if not context.is_main:
        return
    points = [(int(epoch), value) for epoch, value in trained.history["probe_top1"]]
    ProbeCurve({seed: points}).write(layout.result("pretrain_probe", f"{name}.csv"))
    stored, _ = load_model(layout.weights(name, seed))
    theirs = stored.state_dict()
    if any(not tensor.cpu().equal(theirs[key]) for key, tensor in trained.model.backbone.state_dict().items()):
        say(f"follow {name}: the student that was followed is not bit for bit the stored one (another processor?)")
    trained.checkpoint.remove()


STAGE = Stage(
    "follow",
    "accuracy over the epochs of a distillation, for the rows that ask for it",
    run,
    lambda item: ("seeds", "teacher_seed", "views", "student", "targets", "distill"),
    lambda layout, item: [layout.data, layout.model("teacher"), layout.targets, layout.model(item.name)],
    lambda layout, item: [layout.result("pretrain_probe", f"{item.name}.csv")],
    over="follow",
    estimate="attndistill.costs.training:follow",
    distributed=True,
)

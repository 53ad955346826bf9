"""Masked autoencoding, for the teacher and, by the same code, for the from-scratch baseline; or a released teacher."""

from typing import TYPE_CHECKING, Any

from attndistill.stages.declaration import Item, Stage, seeds
from attndistill.stages.outside import Outside

if TYPE_CHECKING:
    from attndistill.config import Config
    from attndistill.stages.context import Context


def run(context: "Context") -> None:
    """Train and store the encoder of every seed, its losses and its accuracy (Fig. 7) over epochs.

    A teacher that comes from elsewhere (teacher.source) is taken as it is.
    """
    if context.item.name == "teacher" and context.config.teacher.source is not None:
        from attndistill.stages.released import take_released_teacher

        if context.is_main:
            take_released_teacher(context)
        return
    from attndistill.data.manifest import read_manifest
    from attndistill.pretraining import pretrain_encoder
    from attndistill.runs import Execution, Trained, train_seeds
    from attndistill.stages.accuracy import accuracy_over
    from attndistill.stages.storing import store_models

    config, views = context.config, context.views
    section = "teacher" if context.item.name == "teacher" else "student"
    sizes = config.teacher.sizes() if section == "teacher" else config.student.plain()
    images, digest = context.images("train"), read_manifest(context.layout.data)["digest"]
    look = accuracy_over(context, images, config.pretrain.probe_every, config.pretrain.recipe.epochs)

    def train_one(seed: int, execution: Execution) -> Trained:
        return pretrain_encoder(
            images,
            views,
            sizes,
            config.pretrain,
            execution,
            context.checkpoint(seed, {"data": digest}, section, "views", "pretrain"),
            seed=seed,
            look=look,
        )

    trained = train_seeds(context.seeds, config.pretrain.recipe, len(images), context.execution, train_one)
    if context.is_main:
        store_models(context, "pretrain", sizes, trained)


def _outside(config: "Config", item: Item) -> list[Outside]:
    source: Any = config.teacher.source
    path = getattr(source, "path", None)
    return [Outside(path, sha256=source.sha256)] if path and item.name == "teacher" else []


STAGE = Stage(
    "pretrain",
    "masked autoencoding of the teacher or of the student from scratch; or a released teacher",
    run,
    lambda item: (seeds(item), "views", "pretrain", "teacher" if item.name == "teacher" else "student"),
    lambda layout, item: [layout.data],
    lambda layout, item: [
        layout.model(item.name),
        layout.result("training", f"{item.name}.json"),
        layout.result("training", f"{item.name}.csv"),
    ],
    over="pretrained",
    outside=_outside,
    estimate="attndistill.costs.training:pretrain",
    distributed=True,
)

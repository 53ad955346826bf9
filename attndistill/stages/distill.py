"""Distil the teacher into a student, for one row of the rows file."""

from typing import TYPE_CHECKING

from attndistill.stages.declaration import Stage

if TYPE_CHECKING:
    from attndistill.stages.context import Context


def run(context: "Context") -> None:
    """Train and store the student of every seed, with its curves.

    Raises:
        ValueError: a curve of accuracy for images without labels.
    """
    from attndistill.distillation import distil_student, open_teaching
    from attndistill.models.storage import load_model
    from attndistill.runs import Execution, Trained, images_shown, train_seeds
    from attndistill.stages.accuracy import accuracy_over
    from attndistill.stages.storing import store_models

    config, sizes = context.config, context.config.student.plain()
    images, identity = context.images("train"), context.targets_identity
    teacher, _ = load_model(context.teacher_weights)
    device = context.execution.device
    teach = open_teaching(teacher, config.distill, config.targets, context.layout.targets, identity, device)
    every, epochs = config.distill.probe_every, config.distill.recipe.epochs
    look = context.look or accuracy_over(context, images, every, epochs)
    if every is not None and look is None:
        raise ValueError(f"distill.probe_every: {every}, but these images have no labels; allowed: null")

    def train_one(seed: int, execution: Execution) -> Trained:
        return distil_student(
            teacher,
            teach,
            images,
            context.views,
            sizes,
            config.distill,
            execution,
            context.checkpoint(seed, identity, "student", "views", "targets", "distill"),
            seed=seed,
            stored_views=config.targets.views,
            look=look,
        )

    length = images_shown(len(images), config.distill.data_fraction)
    trained = train_seeds(context.seeds, config.distill.recipe, length, context.execution, train_one)
    if context.is_main:
        store_models(context, "distill", sizes, trained)


STAGE = Stage(
    "distill",
    "one row of the rows file: distil the teacher into a student",
    run,
    lambda item: ("seeds", "teacher_seed", "views", "student", "targets", "distill"),
    lambda layout, item: [layout.data, layout.model("teacher"), layout.targets],
    lambda layout, item: [
        layout.model(item.name),
        layout.result("training", f"{item.name}.json"),
        layout.result("training", f"{item.name}.csv"),
    ],
    over="row",
    estimate="attndistill.costs.training:distill",
    distributed=True,
)

"""What a training stage stores: models and curves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attndistill.core.artifacts import replacing_directory
from attndistill.models.storage import save_model
from attndistill.results import TrainingFile
from attndistill.runs import Trained

if TYPE_CHECKING:
    from attndistill.stages.context import Context


def store_models(context: "Context", kind: str, vit: dict[str, Any], trained: Mapping[int, Trained]) -> None:
    """Store models and curves of all seeds, then remove their resume checkpoints. For one process of a run."""
    name, layout = context.item.name, context.layout
    with replacing_directory(layout.model(name)) as directory:
        for seed, result in trained.items():
            image_size = context.config.views.image_size
            save_model(directory / f"seed-{seed}", result.model, image_size=image_size, vit=vit)
    curves = TrainingFile.of(name, kind, {seed: result.history for seed, result in trained.items()})
    curves.write(layout.result("training", f"{name}.json"))
    curves.write_csv(layout.result("training", f"{name}.csv"))
    context.journal.artifact(layout.model(name), folder="model")
    for result in trained.values():
        result.checkpoint.remove()

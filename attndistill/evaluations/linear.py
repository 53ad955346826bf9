"""The linear probe: the training loop on frozen features of random views, then test once (Table 9)."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from attndistill.core.randomness import derived_seed
from attndistill.data.store import ChosenImages
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import ProbeResult, top_k
from attndistill.evaluations.judged import Judged
from attndistill.runs import make_accelerator, make_schedule, train
from attndistill.tasks.linear_probing import LinearProbing
from attndistill.training.recipe import Recipe


@EVALUATIONS.register("linear", title="Linear", on="model")
def linear(judged: Judged, *, statistics: Annotated[int, Field(ge=2)], recipe: Recipe) -> ProbeResult:
    """A classifier trained on random views of the training images, resumable like any run; top-1 and top-5 on test.

    One learning rate, the recipe's: nothing is chosen, so nothing is held out of train. `statistics` images share the
    mean and deviation of the batch norm before the classifier.

    Raises:
        ValueError: a batch, or a micro-batch, that is no multiple of the images of the batch norm's statistics, or a
            class without a training image.
    """
    recipe = Recipe.model_validate(recipe)
    task = LinearProbing(
        judged.backbone,
        judged.classes,
        derived_seed(judged.seed, "probe"),
        statistics=statistics,
        projector=judged.projector,
        layer=judged.layer,
    )
    images = judged.train if judged.labelled is None else ChosenImages(judged.train, judged.labelled)
    judged.check_classes(judged.kept)
    check_groups(judged, recipe, len(images), statistics, "probe.linear.statistics")
    execution = replace(judged.execution, label=judged.execution.label.replace("probe", "linear probe", 1))
    checkpoint = judged.checkpoint(judged.inputs)
    train(task, recipe, images, judged.views, checkpoint, execution, seed=judged.seed)
    scores, truth = _scores(judged, task), np.asarray(judged.test.labels)
    protocol = f"linear/{recipe.optimizer.name}-{recipe.epochs}-epochs-v1"
    return ProbeResult(protocol, top_k(scores, truth, 1), top_k(scores, truth, 5), {}, {})


def check_groups(judged: Judged, recipe: Recipe, length: int, group: int, setting: str) -> None:
    """A process takes whole groups at once, or the figure would depend on how a batch is cut. Raises ValueError."""
    ranks = make_accelerator(judged.execution, recipe).num_processes
    schedule = make_schedule(recipe, judged.execution, length, 0, ranks, 0)
    size = schedule.batch_size // (ranks * schedule.micro_batches)
    if size % group:
        raise ValueError(
            f"a process takes {size} images at once, no multiple of {setting} {group}; "
            "set runtime.micro_batch_size to a multiple"
        )


def _scores(judged: Judged, task: LinearProbing) -> NDArray[np.float64]:
    """(N, C), on the evaluation views."""
    task.eval()
    with torch.no_grad():
        rows = [task.logits(batch.images).double().cpu().numpy() for batch in judged.batches(judged.test)]
    scores: NDArray[np.float64] = np.concatenate(rows)
    return scores

"""The linear probe of stage 5: the training loop on frozen features, then test once (Table 9)."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from attndistill.core.artifacts import digest_of
from attndistill.core.randomness import derived_seed
from attndistill.data.loading import evaluation_batches
from attndistill.data.store import ChosenImages, ImageSet, read_manifest
from attndistill.evaluations.classifiers import ProbeResult, top_k
from attndistill.models.storage import load_model, weights_digest
from attndistill.stages.context import Context
from attndistill.stages.runs import make_accelerator, make_schedule, train
from attndistill.tasks.linear_probing import LinearProbing
from attndistill.training.checkpoint import Checkpoint


def linear_probe(
    context: Context, seed: int, images: ImageSet, test: ImageSet, chosen: NDArray[np.int64] | None
) -> tuple[ProbeResult, Checkpoint]:
    """Train a classifier on random views of the training images, resumable like any run; top-1 and top-5 on test.

    One learning rate, the recipe's: nothing is chosen, so nothing is held out of train.

    Args:
        context: of the stage.
        seed: of the model that is judged, and of the classifier.
        images: training split.
        test: test split.
        chosen: training images that keep their label; None: all.

    Returns:
        The figures, and the checkpoint to be removed once they are safe.

    Raises:
        ValueError: a batch, or a micro-batch, that is no multiple of the images of the batch norm's statistics.
    """
    options, weights = context.config.probe, context.layout.weights(context.item, seed)
    assert options.linear is not None
    manifest = read_manifest(context.layout.data)
    backbone, projector = load_model(weights)
    layer = options.projector_layer if projector else 0
    task = LinearProbing(
        backbone,
        len(manifest["class_names"]),
        derived_seed(seed, "probe"),
        statistics=options.linear.statistics,
        projector=projector,
        layer=layer,
    )
    labels = "all" if chosen is None else digest_of(chosen.tolist())
    inputs = {"model": weights_digest(weights), "data": manifest["digest"], "labels": labels}
    checkpoint = context.checkpoint(seed, inputs, "views", "probe")
    labelled = images if chosen is None else ChosenImages(images, chosen)
    recipe = options.linear.recipe
    _check_groups(context, len(labelled), options.linear.statistics)
    train(task, recipe, labelled, replace(context, stage="linear probe"), checkpoint, seed=seed)
    scores = _scores(context, task, test)
    truth = np.asarray(test.labels)
    protocol = f"linear/{recipe.optimizer.name}-{recipe.epochs}-epochs-v1"
    return ProbeResult(protocol, top_k(scores, truth, 1), top_k(scores, truth, 5), {}, {}), checkpoint


def _check_groups(context: Context, length: int, statistics: int) -> None:
    """A process takes whole groups at once, or the figure would depend on how a batch is cut."""
    linear = context.config.probe.linear
    assert linear is not None
    accelerator = make_accelerator(context, linear.recipe)
    ranks = accelerator.num_processes
    schedule = make_schedule(linear.recipe, context.config.runtime, length, 0, ranks, 0)
    size = schedule.batch_size // (ranks * schedule.micro_batches)
    if size % statistics:
        raise ValueError(
            f"a process takes {size} images at once, no multiple of probe.linear.statistics {statistics}; "
            "set runtime.micro_batch_size to a multiple"
        )


def _scores(context: Context, task: LinearProbing, test: ImageSet) -> NDArray[np.float64]:
    """(N, C), on the evaluation views."""
    task.eval()
    views, size = context.config.views, context.config.runtime.evaluation_batch_size
    with torch.no_grad():
        rows = [
            task.logits(batch.images).double().cpu().numpy()
            for batch in evaluation_batches(test, context.recipe, crop_share=views.evaluation_crop, batch_size=size)
        ]
    scores: NDArray[np.float64] = np.concatenate(rows)
    return scores

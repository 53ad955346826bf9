"""Features of a model for its probes: of both splits, with the part of train on which hyper-parameters are chosen."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attndistill.data.label_subsets import LeftOut, label_subset
from attndistill.data.splits import stratified_subset
from attndistill.data.store import ImageSet, read_manifest, validation_indices
from attndistill.evaluations.classifiers import LabelledFeatures, ProbeData
from attndistill.evaluations.embedding import embed_split
from attndistill.models.projector import Projector
from attndistill.stages.context import Context


def probe_data(
    context: Context,
    backbone: nn.Module,
    images: ImageSet,
    test: ImageSet,
    projector: Projector | None = None,
    layer: int = 0,
) -> ProbeData:
    """Features of both splits of one model."""
    config = context.config
    embedded = [
        embed_split(
            backbone,
            split,
            context.recipe,
            crop_share=config.views.evaluation_crop,
            batch_size=config.runtime.evaluation_batch_size,
            device=context.device,
            projector=projector,
            layer=layer,
        )
        for split in (images, test)
    ]
    classes = len(read_manifest(context.layout.data)["class_names"])
    return ProbeData(embedded[0], validation_indices(context.layout.data), embedded[1], classes)


def keep_labels(context: Context, data: ProbeData, chosen: NDArray[np.int64]) -> ProbeData:
    """The same with only the chosen training images; the part for hyper-parameters is drawn from them.

    Raises:
        ValueError: no class has an image to spare for that part.
    """
    train = LabelledFeatures(data.train.features[chosen], data.train.labels[chosen])
    options = context.config.data
    share, seed = options.validation_fraction, options.validation_seed
    held_out = stratified_subset(train.labels, share, seed, "validation", leave_one=True)
    if not len(held_out):
        raise ValueError(f"probe.labels keeps {len(chosen)} images, one a class: none is left to choose k and C on")
    return ProbeData(train, held_out, data.test, data.classes)


def labelled_images(context: Context, images: ImageSet) -> NDArray[np.int64] | None:
    """Positions of the training images that keep their label; None: all of them.

    Raises:
        ValueError: a list that cannot be read, or a class without a label.
    """
    options = context.config.probe.labels
    if options.fraction is None and options.list_file is None:
        return None
    listed = None if options.list_file is None else context.layout.root / options.list_file
    labels = np.asarray(images.labels)
    left_out = LeftOut.of(read_manifest(context.layout.data))
    kept = label_subset(
        images.names, labels, list_file=listed, fraction=options.fraction, seed=options.seed, left_out=left_out
    )
    if kept.other_classes or kept.unusable:
        print(kept.sentence())
    return kept.positions

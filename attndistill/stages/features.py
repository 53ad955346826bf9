"""Features of a model for its probes: of both splits, with the part of train on which hyper-parameters are chosen."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attndistill.data.store import ImageSet, read_manifest
from attndistill.models.projector import Projector
from attndistill.probes.classifiers import ProbeData
from attndistill.probes.embedding import embed_split
from attndistill.stages.context import Context


def _validation(context: Context) -> NDArray[np.int64]:
    """The part of train on which hyper-parameters of probes are chosen."""
    indices: NDArray[np.int64] = np.load(context.layout.data / "train-validation.npy", allow_pickle=False)
    return indices


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
    return ProbeData(embedded[0], _validation(context), embedded[1], classes)

"""Embedding: the features a probe judges, computed once for every probe."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attndistill.data.loading import evaluation_batches
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.evaluations.classifiers import LabelledFeatures, ProbeData
from attndistill.models.kernels import images_at_once
from attndistill.models.projector import Projector
from attndistill.models.readout import read_features


def embed_split(
    backbone: nn.Module,
    images: ImageSet,
    recipe: ViewRecipe,
    *,
    crop_share: float,
    batch_size: int,
    device: torch.device,
    projector: Projector | None = None,
    layer: int = 0,
    indices: NDArray[np.int64] | None = None,
) -> LabelledFeatures:
    """The class token of every image of a split (or of `indices`), after `layer` layers of P (0: before P), float32."""
    backbone.to(device).eval()
    batch_size = images_at_once(backbone, device, batch_size)
    rows: list[NDArray[np.float32]] = []
    with torch.no_grad():
        for batch in evaluation_batches(images, recipe, crop_share=crop_share, batch_size=batch_size, indices=indices):
            feature = read_features(backbone, batch.images.to(device)).cls_token
            if layer:
                assert projector is not None
                feature = projector.to(device).eval().after(feature, layer)
            rows.append(feature.float().cpu().numpy())
    labels = np.asarray(images.labels)
    return LabelledFeatures(np.concatenate(rows), labels if indices is None else labels[indices])


def probe_data(
    backbone: nn.Module,
    train: ImageSet,
    test: ImageSet,
    recipe: ViewRecipe,
    *,
    validation: NDArray[np.int64],
    classes: int,
    crop_share: float,
    batch_size: int,
    device: torch.device,
    projector: Projector | None = None,
    layer: int = 0,
) -> ProbeData:
    """Features of both splits of one data set; `validation` are the places in train where k and C are chosen."""
    features = [
        embed_split(
            backbone,
            split,
            recipe,
            crop_share=crop_share,
            batch_size=batch_size,
            device=device,
            projector=projector,
            layer=layer,
        )
        for split in (train, test)
    ]
    return ProbeData(features[0], validation, features[1], classes)

"""The validation part of train as the test of a search: what a trial is judged and pictured on. Test is never opened.

The students themselves see all of train, without labels, as in the pipeline: that is what the target cache holds. A
probe's own hyper-parameter (k, C) is chosen on an inner validation part of the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from attndistill.data.splits import stratified_subset
from attndistill.data.store import ImageSet, read_manifest
from attndistill.data.views import Boxes
from attndistill.probes import PROBES
from attndistill.probes.classifiers import LabelledFeatures, ProbeData, ProbeResult
from attndistill.probes.embedding import embed_split
from attndistill.stages.context import Context


class PartOfImages:
    """Some images of a split, addressed by their place in `chosen`."""

    def __init__(self, images: ImageSet, chosen: NDArray[np.int64]) -> None:
        self.images, self.chosen = images, chosen
        self.labels: NDArray[np.int64] = np.asarray(images.labels)[chosen]
        self.names: Sequence[str] = [images.names[index] for index in chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def sizes(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.images.sizes(self.chosen[indices])

    def crops(self, indices: NDArray[np.int64], boxes: Boxes, image_size: int) -> Float[Tensor, "B 3 S S"]:
        return self.images.crops(self.chosen[indices], boxes, image_size)


@dataclass(frozen=True)
class ValidationContext(Context):
    """A context whose "test" is the validation part of train, and whose "train" is the rest."""

    @cached_property
    def held_out(self) -> NDArray[np.int64]:
        """Places of the validation part in train."""
        indices: NDArray[np.int64] = np.load(self.layout.data / "train-validation.npy", allow_pickle=False)
        return indices

    def images(self, split: str) -> ImageSet:
        train = super().images("train")
        return PartOfImages(train, self.held_out if split == "test" else self._rest(len(train)))

    def _rest(self, count: int) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(count), self.held_out)

    def judge_backbone(self, backbone: nn.Module, images: ImageSet, probe: Literal["knn", "logistic"]) -> ProbeResult:
        """A probe on the features before P: fitted on train without its validation part, judged on that part.

        Args:
            backbone: of a student.
            images: all of train.
            probe: one of the two of the pipeline, with its settings.
        """
        features = embed_split(
            backbone,
            images,
            self.recipe,
            crop_share=self.config.views.evaluation_crop,
            batch_size=self.config.runtime.evaluation_batch_size,
            device=self.device,
        )
        rest = self._rest(len(images))
        train, asked = (
            LabelledFeatures(features.features[part], features.labels[part]) for part in (rest, self.held_out)
        )
        options = self.config.data
        inner = stratified_subset(
            train.labels, options.validation_fraction, options.validation_seed, "inner validation", leave_one=True
        )
        choice = getattr(self.config.probe, probe)
        data = ProbeData(train, inner, asked, len(read_manifest(self.layout.data)["class_names"]))
        result: ProbeResult = PROBES.bind(choice.name, choice.options())(data)
        return result

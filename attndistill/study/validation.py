"""The validation part of train as the test of a search: what a trial is judged and pictured on. Test is never opened.

The students themselves see all of train, without labels, as in the pipeline: that is what the target cache holds. A
probe's own hyper-parameter (k, C) is chosen on an inner validation part of the rest.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attndistill.data.splits import stratified_subset
from attndistill.data.store import ChosenImages, ImageSet, read_manifest, validation_indices
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import LabelledFeatures, ProbeData, ProbeResult
from attndistill.evaluations.embedding import embed_split
from attndistill.stages.context import Context


@dataclass(frozen=True)
class ValidationContext(Context):
    """A context whose "test" is the validation part of train, and whose "train" is the rest."""

    @cached_property
    def held_out(self) -> NDArray[np.int64]:
        """Places of the validation part in train."""
        return validation_indices(self.layout.data)

    def images(self, split: str) -> ImageSet:
        train = super().images("train")
        return ChosenImages(train, self.held_out if split == "test" else self._rest(len(train)))

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
        result: ProbeResult = EVALUATIONS.bind(choice.name, choice.options())(data)
        return result

"""A model and what it is judged on: the one thing that every evaluation is given, with features computed once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from attndistill.core.artifacts import digest_of
from attndistill.core.words import shown
from attndistill.data.loading import Batch, evaluation_batches
from attndistill.data.splits import stratified_subset
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import LabelledFeatures, ProbeData
from attndistill.evaluations.embedding import probe_data
from attndistill.models.families import Backbone
from attndistill.models.projector import Projector
from attndistill.runs import Execution
from attndistill.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Judged:
    """One model on one data set.

    Attributes:
        backbone, projector: of the model; a teacher has no projector.
        layer: the feature is the class token after this layer of P; 0 is before P.
        train, test: the data's splits; only the labels of `train` are used.
        validation: places in train on which hyper-parameters are chosen.
        labelled: places in train that keep their label; None: all. The part for hyper-parameters is then drawn from
            them (`validation_fraction`, `validation_seed`).
        classes: how many.
        views: training views; evaluation takes the central `crop_share` of the shorter side.
        seed: of what an evaluation draws.
        inputs: digests of model, data and labels: what a training run for the evaluation depends on.
        execution: device, processes, progress.
        checkpoint: (inputs) -> the resume checkpoint of such a run; removed by whoever stores the figures.
        keep: shown what is fine-tuned whenever it is judged, with a key that is the largest for what is chosen.
    """

    backbone: Backbone
    projector: Projector | None
    layer: int
    train: ImageSet
    test: ImageSet
    validation: NDArray[np.int64]
    labelled: NDArray[np.int64] | None
    validation_fraction: float
    validation_seed: int
    classes: int
    views: ViewRecipe
    crop_share: float
    seed: int
    inputs: Mapping[str, str]
    execution: Execution
    checkpoint: Callable[[Mapping[str, str]], Checkpoint]
    keep: Callable[[tuple[float, int, float], torch.nn.Module], None] | None = None

    @cached_property
    def features(self) -> ProbeData:
        """Features of both splits, and the part of train on which hyper-parameters are chosen.

        Raises:
            ValueError: no class has a labelled image to spare for that part.
        """
        found = probe_data(
            self.backbone,
            self.train,
            self.test,
            self.views,
            validation=self.validation,
            classes=self.classes,
            crop_share=self.crop_share,
            batch_size=self.execution.evaluation_batch_size,
            device=self.execution.device,
            projector=self.projector,
            layer=self.layer,
        )
        if self.labelled is None:
            return found
        train = LabelledFeatures(found.train.features[self.labelled], found.train.labels[self.labelled])
        return ProbeData(train, self._held_out, found.test, self.classes)

    @property
    def kept(self) -> NDArray[np.int64]:
        """Places in train that keep their label."""
        return np.arange(len(self.train), dtype=np.int64) if self.labelled is None else self.labelled

    @property
    def parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in train whose labels are learned from, and those on which hyper-parameters are chosen.

        Raises:
            ValueError: as `features`.
        """
        return np.delete(self.kept, self._held_out), self.kept[self._held_out]

    def check_classes(self, learned: NDArray[np.int64]) -> None:
        """Refuse to train on these places where a class has none among them. Raises ValueError."""
        counts = np.bincount(np.asarray(self.train.labels)[learned], minlength=self.classes)
        if missing := np.flatnonzero(counts == 0).tolist():
            raise ValueError(
                f"{len(missing)} of {self.classes} classes have no training image, the first is number {missing[0]}; "
                "allowed: one or more of every class"
            )

    def batches(self, images: ImageSet, indices: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Evaluation views of a split, or of some of its images."""
        size = self.execution.evaluation_batch_size
        return evaluation_batches(images, self.views, crop_share=self.crop_share, batch_size=size, indices=indices)

    def accuracies(
        self, logits: Callable[[Tensor], Tensor], images: ImageSet, indices: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Top-1 and top-5 in percent on the evaluation views; `logits` are (B, C), or (B, K, C) of K heads."""
        hits: list[Tensor] = []
        count = 0
        with torch.no_grad():
            for batch in self.batches(images, indices):
                found = logits(batch.images).float()
                labels = batch.labels.to(found.device).view(-1, *[1] * (found.ndim - 2)).expand(found.shape[:-1])
                before = places(found, labels)
                hits.append(torch.stack([(before < k).sum(dim=0) for k in (1, 5)]).cpu())
                count += len(labels)
        top1, top5 = (100 * torch.stack(hits).sum(dim=0).double() / count).numpy()
        return top1, top5

    def execution_of(self, evaluation: str) -> Execution:
        """How a run for an evaluation is done: its curves are reported under its name."""

        def at_epoch(seed: int, epoch: int, values: dict[str, float]) -> None:
            self.execution.at_epoch(seed, epoch, {f"{evaluation}/{name}": value for name, value in values.items()})

        label = self.execution.label.replace("probe", evaluation.replace("_", " "), 1)
        return replace(self.execution, label=label, at_epoch=at_epoch)

    @cached_property
    def _held_out(self) -> NDArray[np.int64]:
        """Which of the labelled images are for choosing."""
        if self.labelled is None:
            return self.validation
        labels = np.asarray(self.train.labels)[self.labelled]
        held_out = stratified_subset(
            labels, self.validation_fraction, self.validation_seed, "validation", leave_one=True
        )
        if not len(held_out):
            count = len(self.labelled)
            raise ValueError(f"probe.labels keeps {count} images, one a class: none is left to choose k and C on")
        return held_out


def protocol_of(evaluation: str, published: str, given: Mapping[str, Any]) -> str:
    """The published protocol's name, and which options differ from its own: "linear/ibot-v1 (rates 2)".

    Args:
        evaluation: the entry; its signature's defaults are the published settings.
        published: name and version of the protocol.
        given: the options that were used. Of a list its length is named, and a digest of its values.
    """
    defaults = {option.name: option.default for option in EVALUATIONS.declared()[evaluation] if not option.required}
    odd = [f"{name} {_short(value)}" for name, value in given.items() if value != defaults[name]]
    return f"{published} ({', '.join(odd)})" if odd else published


def _short(value: Any) -> str:
    return f"{len(value)}:{digest_of(value)[:8]}" if isinstance(value, list) else shown(value)


def places(logits: Float[Tensor, "*B C"], labels: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """How many classes come before the true one, ties to the lower class number: below k, it is among the k best."""
    true = logits.gather(-1, labels[..., None])
    numbers = torch.arange(logits.shape[-1], device=logits.device)
    before = (logits > true) | ((logits == true) & (numbers < labels[..., None]))
    return before.sum(dim=-1)

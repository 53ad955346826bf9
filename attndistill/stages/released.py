"""A teacher that others trained: loaded strictly, checked against the configuration and the data, then stored.

Stands in for pre-training: whatever follows finds the teacher in the same place and form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from attndistill.core.artifacts import replacing_directory
from attndistill.data.loading import evaluation_batches
from attndistill.data.manifest import read_manifest
from attndistill.data.splits import balanced_subset
from attndistill.data.store import ImageSet
from attndistill.evaluations.classifiers import LabelledFeatures, knn_scores, top_k
from attndistill.evaluations.embedding import embed_split
from attndistill.models.storage import save_model
from attndistill.models.teachers import TEACHER_SOURCES
from attndistill.models.teachers.loading import Loaded
from attndistill.results import TrainingFile
from attndistill.stages.context import Context

_NEIGHBOURS = 10  # k of the self-check, the smallest of DINO's sweep
_PARTS = 5  # of the subset: each is asked about once, by the other four
_A_CLASS = 15  # images: fewer leave a bank of less than k. With more classes than that allows, some are taken
_DEVIATIONS = 3  # standard errors above the share that guessing gets right: what luck does not reach
_TEMPERATURE = 0.07  # DINO's
_PIXELS = 32  # raw pixels are compared at this side: 224 px would be 150,000 values an image


@dataclass(frozen=True)
class SelfCheck:
    """k-NN top-1 (percent) on a fixed subset of train, as many images of each class, and the least that passes.

    Attributes:
        images: of the subset.
        classes: of the subset; not all where `teacher.check_images` would leave fewer than 15 images to each.
        all_classes: of the data.
        teacher: by the class token.
        pixels: by raw pixels.
        guessing: the most that guessing reaches: one class's share and three standard errors, at most halfway to all.
        reference: what was recorded for this teacher and these images.
        floor: the least that passes.
        neighbours: k; fewer than 10 where a class has fewer.
    """

    images: int
    classes: int
    all_classes: int
    teacher: float
    pixels: float
    guessing: float
    reference: float | None
    floor: float
    neighbours: int = _NEIGHBOURS

    @property
    def passed(self) -> bool:
        return self.teacher >= self.floor

    def refusal(self) -> str:
        """What is wrong, the usual causes, and the settings that would help."""
        lowers = "no setting lowers what guessing reaches" if self.floor <= self.guessing else _LOWERS
        return f"{self.sentence()}. {_CAUSES}; {lowers}"

    def sentence(self) -> str:
        """For people."""
        known = "" if self.reference is None else f", {self.reference:.1f} % recorded"
        some = "" if self.classes == self.all_classes else f" of {self.all_classes}"
        blind = (
            "; raw pixels are no better than guessing here and bound nothing" if self.pixels <= self.guessing else ""
        )
        return (
            f"self-check: k-NN of the class token {self.teacher:.1f} %, of raw pixels {self.pixels:.1f} %{known} "
            f"({self.images} training images of {self.classes}{some} classes, k = {self.neighbours}, guessing reaches "
            f"{self.guessing:.1f} %{blind}); at least {self.floor:.1f} % is asked for"
        )


def take_released_teacher(context: Context) -> None:
    """Load, report, check and store the teacher named by teacher.source.

    Raises:
        ValueError: the loader's refusals; k-NN below the floor.
    """
    teacher = context.config.teacher
    assert teacher.source is not None
    loaded: Loaded = TEACHER_SOURCES.bind(teacher.source.name, teacher.source.options())(
        context.config.views.image_size
    )
    for line in loaded.report.lines():
        print(line)
    account: dict[str, Any] = {"load": loaded.report.plain()}
    if teacher.check == "on" and read_manifest(context.layout.data).get("labelled") is False:
        print("self-check: left out, these images have no labels")
    elif teacher.check == "on":
        check = _self_check(context, loaded)
        print(check.sentence())
        if not check.passed:
            raise ValueError(check.refusal())
        account["self_check"] = vars(check)
    _store(context, loaded, account)


_CAUSES = (
    "Usual causes: views.mean and views.std are not what it was trained with, another half or format than meant, or "
    "images unlike its own. Nothing was stored; --teacher.check off goes on regardless"
)
_LOWERS = "--teacher.check_floor lowers what raw pixels ask for, --teacher.check_slack what was recorded"


def _self_check(context: Context, loaded: Loaded) -> SelfCheck:
    teacher, images, seed = context.config.teacher, context.images("train"), context.config.views.seed
    chosen = _balanced(images.labels, teacher.check_images, seed)
    features = embed_split(
        loaded.model,
        images,
        context.views,
        crop_share=context.config.views.evaluation_crop,
        batch_size=context.config.runtime.evaluation_batch_size,
        device=context.execution.device,
        indices=chosen,
    )
    labels, classes = features.labels, len(read_manifest(context.layout.data)["class_names"])
    each = int(np.bincount(labels).max())
    neighbours = max(1, min(_NEIGHBOURS, each - -(-each // _PARTS)))
    found = _nearest_neighbours(features, classes, neighbours)
    raw = _nearest_neighbours(LabelledFeatures(_raw_pixels(context, images, chosen), labels), classes, neighbours)
    share, recorded = each / len(labels), (teacher.check_reference or 0.0) - teacher.check_slack
    guessing = 100 * min(share + _luck(share, len(labels)), (share + 1) / 2)
    of_pixels = teacher.check_floor * raw - 100 * _luck(raw / 100, len(labels))
    return SelfCheck(
        images=len(chosen),
        classes=len(np.unique(labels)),
        all_classes=classes,
        teacher=found,
        pixels=raw,
        guessing=guessing,
        reference=teacher.check_reference,
        floor=max(guessing, of_pixels, recorded),
        neighbours=neighbours,
    )


def _balanced(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Positions of equally many images of every class that has 15; of the two largest where fewer have.

    Raises:
        ValueError: a class of the two largest has one image, which no other of its class could answer for.
    """
    sizes = np.bincount(labels)
    enough = sizes >= min(_A_CLASS, np.sort(sizes)[-2:].min())
    enough &= sizes > 0
    classes = min(int(enough.sum()), max(2, most // _A_CLASS))
    each = min(int(sizes[enough].min()), most // classes)
    if each < 2:
        raise ValueError(
            "self-check: fewer than two classes have two training images; allowed: more images, or --teacher.check off"
        )
    positions = np.flatnonzero(enough[labels])
    return positions[balanced_subset(labels[positions], each * classes, _A_CLASS, seed, "self-check")]


def _nearest_neighbours(features: LabelledFeatures, classes: int, neighbours: int) -> float:
    """k-NN top-1 (percent) of every image by the images of the other parts; a class is spread evenly over the parts."""
    order = np.argsort(features.labels, kind="stable")
    parts = np.empty(len(order), np.int64)
    parts[order] = np.arange(len(order)) % _PARTS
    right = 0.0
    for part in range(_PARTS):
        bank, asked = (
            LabelledFeatures(features.features[of], features.labels[of]) for of in (parts != part, parts == part)
        )
        if len(asked.labels):
            scores = knn_scores(bank, asked, classes, [neighbours], _TEMPERATURE)[neighbours]
            right += top_k(scores, asked.labels, 1) * len(asked.labels)
    return right / len(features.labels)


def _luck(share: float, count: int) -> float:
    """Three standard errors of a share of `count` images, which are not none where all of them are right."""
    share = (share * count + 1) / (count + 2)
    return _DEVIATIONS * sqrt(share * (1 - share) / count)


def _raw_pixels(context: Context, images: ImageSet, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    rows = []
    for batch in evaluation_batches(
        images,
        context.views,
        crop_share=context.config.views.evaluation_crop,
        batch_size=context.config.runtime.evaluation_batch_size,
        indices=chosen,
    ):
        small = batch.images if batch.images.shape[-1] <= _PIXELS else F.adaptive_avg_pool2d(batch.images, _PIXELS)
        rows.append(small.flatten(1))
    pixels: NDArray[np.float32] = torch.cat(rows).numpy()
    return pixels


def _store(context: Context, loaded: Loaded, account: Mapping[str, Any]) -> None:
    """Where pre-training would have put a model; its curves are empty, since nothing was trained."""
    layout, item = context.layout, context.item.name
    with replacing_directory(layout.model(item)) as directory:
        size = context.config.views.image_size
        save_model(directory / f"seed-{context.config.teacher_seed}", loaded.model, image_size=size, vit=loaded.rebuild)
    empty = TrainingFile(name=item, kind="released", unit="epoch", curves={}, summary={}, **account)
    empty.write(layout.result("training", f"{item}.json"))
    empty.write_csv(layout.result("training", f"{item}.csv"))
    context.journal.artifact(layout.result("training", f"{item}.json"), folder="results")
    context.journal.artifact(layout.model(item), folder="model")
    context.journal.tag("teacher_sha256", loaded.report.sha256)
    context.journal.tag("teacher_format", loaded.report.format)

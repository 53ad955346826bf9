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

from attndistill.config import Teacher
from attndistill.core.artifacts import replacing_directory, write_json, write_text
from attndistill.data.loading import evaluation_batches
from attndistill.data.splits import balanced_subset
from attndistill.data.store import ImageSet, read_manifest
from attndistill.models.storage import save_model
from attndistill.models.teachers import TEACHER_SOURCES
from attndistill.models.teachers.loading import Loaded
from attndistill.models.teachers.report import LoadReport
from attndistill.probes.classifiers import LabelledFeatures, knn_scores, top_k
from attndistill.probes.embedding import embed_split
from attndistill.stages.context import Context

_NEIGHBOURS = 10  # k of the self-check, the smallest of DINO's sweep
_HELD_OUT = 0.2  # share of every class of the subset that is asked about
_A_CLASS = 15  # images: fewer leave a bank of less than k. With more classes than that allows, some are taken
_DEVIATIONS = 3  # standard errors above the share that guessing gets right: what luck does not reach
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
        guessing: the most that guessing reaches: one class's share of those asked, and three standard errors.
        reference: what was recorded for this teacher and these images.
        floor: the least that passes.
    """

    images: int
    classes: int
    all_classes: int
    teacher: float
    pixels: float
    guessing: float
    reference: float | None
    floor: float

    @property
    def passed(self) -> bool:
        return self.teacher >= self.floor

    def sentence(self) -> str:
        """For people."""
        known = "" if self.reference is None else f", {self.reference:.1f} % recorded"
        some = "" if self.classes == self.all_classes else f" of {self.all_classes}"
        blind = (
            "; raw pixels are no better than guessing here and bound nothing" if self.pixels <= self.guessing else ""
        )
        return (
            f"self-check: k-NN of the class token {self.teacher:.1f} %, of raw pixels {self.pixels:.1f} %{known} "
            f"({self.images} training images of {self.classes}{some} classes, k = {_NEIGHBOURS}, guessing reaches "
            f"{self.guessing:.1f} %{blind}); at least {self.floor:.1f} % is asked for"
        )


def take_released_teacher(context: Context) -> None:
    """Load, report, check and store the teacher named by teacher.source.

    Raises:
        ValueError: the loader's refusals; sizes other than the configuration's; k-NN below the floor.
    """
    teacher = context.config.teacher
    assert teacher.source is not None
    loaded: Loaded = TEACHER_SOURCES.bind(teacher.source.name, teacher.source.options())(
        context.config.views.image_size
    )
    for line in loaded.report.lines():
        print(line)
    _check_sizes(teacher, loaded.report)
    account: dict[str, Any] = {"load": loaded.report.plain()}
    if teacher.check == "on":
        check = _self_check(context, loaded)
        print(check.sentence())
        if not check.passed:
            raise ValueError(f"{check.sentence()}. {_CAUSES}")
        account["self_check"] = vars(check)
    _store(context, loaded, account)


_CAUSES = (
    "Usual causes: views.mean and views.std are not what it was trained with, another half or format than meant, or "
    "images unlike its own. Nothing was stored; --teacher.check off goes on regardless, --teacher.check_floor lowers it"
)


def _check_sizes(teacher: Teacher, report: LoadReport) -> None:
    """The configuration says what the teacher is, and is checked before anything runs: so the two must agree."""
    names = ("embed_dim", "depth", "num_heads", "patch_size")
    wrong = [name for name in names if getattr(teacher, name) != getattr(report, name)]
    if wrong:
        said = ", ".join(f"teacher.{name} is {getattr(teacher, name)}" for name in wrong)
        found = " ".join(f"--teacher.{name} {getattr(report, name)}" for name in wrong)
        raise ValueError(f"{report.file} is another model than configured ({said}); set {found}")


def _self_check(context: Context, loaded: Loaded) -> SelfCheck:
    teacher, images, seed = context.config.teacher, context.images("train"), context.config.views.seed
    chosen = balanced_subset(images.labels, teacher.check_images, _A_CLASS, seed, "self-check")
    features = embed_split(
        loaded.model,
        images,
        context.recipe,
        crop_share=context.config.views.evaluation_crop,
        batch_size=context.config.runtime.evaluation_batch_size,
        device=context.device,
        indices=chosen,
    )
    asked = stratified_subset(features.labels, _HELD_OUT, seed, "self-check, asked", leave_one=True)
    classes = len(read_manifest(context.layout.data)["class_names"])
    found = _nearest_neighbours(features, asked, classes)
    pixels = LabelledFeatures(_raw_pixels(context, images, chosen), features.labels)
    raw, guessing = _nearest_neighbours(pixels, asked, classes), _guessing(features.labels[asked])
    return SelfCheck(
        images=len(chosen),
        classes=len(np.unique(features.labels)),
        all_classes=classes,
        teacher=found,
        pixels=raw,
        guessing=guessing,
        reference=teacher.check_reference,
        floor=max(guessing, teacher.check_floor * raw, (teacher.check_reference or 0.0) - teacher.check_slack),
    )


def _nearest_neighbours(features: LabelledFeatures, asked: NDArray[np.int64], classes: int) -> float:
    """k-NN top-1 of the images at positions `asked` by all others."""
    others = np.setdiff1d(np.arange(len(features.labels)), asked)
    bank, questions = (LabelledFeatures(features.features[part], features.labels[part]) for part in (others, asked))
    found: ProbeResult = knn(ProbeData(bank, np.arange(1), questions, classes), neighbours=[_NEIGHBOURS])
    return found.top1


def _guessing(labels: NDArray[np.int64]) -> float:
    """Percent that naming one class for all reaches, at the end of what luck adds."""
    share = float(np.bincount(labels).max() / len(labels))
    return 100 * min(1.0, share + _DEVIATIONS * sqrt(share * (1 - share) / len(labels)))


def _raw_pixels(context: Context, images: ImageSet, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    rows = []
    for batch in evaluation_batches(
        images,
        context.recipe,
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
    layout, item = context.layout, context.item
    with replacing_directory(layout.model(item)) as directory:
        size = context.config.views.image_size
        save_model(directory / f"seed-{context.config.teacher_seed}", loaded.model, image_size=size, vit=loaded.rebuild)
    value = {"name": item, "kind": "released", "unit": "epoch", "curves": {}, "summary": {}, **account}
    write_json(layout.result("training", f"{item}.json"), value)
    write_text(layout.result("training", f"{item}.csv"), "seed,epoch,curve,value\n")
    write_text(layout.result("pretrain_probe", f"{item}.csv"), "seed,epoch,top1\n")
    context.journal.artifact(layout.result("training", f"{item}.json"), folder="results")
    context.journal.artifact(layout.model(item), folder="model")
    context.journal.tag("teacher_sha256", loaded.report.sha256)
    context.journal.tag("teacher_format", loaded.report.format)

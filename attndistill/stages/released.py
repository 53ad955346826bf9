"""A teacher that others trained: loaded strictly, checked against the configuration and the data, then stored.

Stands in for pre-training: whatever follows finds the teacher in the same place and form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from attndistill.config import Teacher
from attndistill.core.artifacts import replacing_directory, write_json, write_text
from attndistill.core.randomness import permutation
from attndistill.data.loading import evaluation_batches
from attndistill.data.store import ImageSet, read_manifest
from attndistill.models.storage import save_model
from attndistill.models.teachers import TEACHER_SOURCES
from attndistill.models.teachers.loading import Loaded
from attndistill.models.teachers.report import LoadReport
from attndistill.probes.classifiers import LabelledFeatures, ProbeData, ProbeResult, knn
from attndistill.probes.embedding import embed_split
from attndistill.stages.context import Context

_NEIGHBOURS = 10  # k of the self-check, the smallest of DINO's sweep
_HELD_OUT = 0.2  # share of the subset that is asked about
_PIXELS = 32  # raw pixels are compared at this side: 224 px would be 150,000 values an image


@dataclass(frozen=True)
class SelfCheck:
    """k-NN top-1 (percent) on a fixed subset of train, and the least that passes."""

    images: int
    teacher: float
    pixels: float
    reference: float | None
    floor: float

    @property
    def passed(self) -> bool:
        return self.teacher >= self.floor


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
        print(_sentence(check))
        if not check.passed:
            raise ValueError(f"{_sentence(check)}. {_CAUSES}")
        account["self_check"] = vars(check)
    _store(context, loaded, account)


_CAUSES = (
    "Usual causes: views.mean and views.std are not what it was trained with, another half or format than meant, or "
    "images unlike its own. Nothing was stored; --teacher.check off goes on regardless, --teacher.check_floor lowers it"
)


def _sentence(check: SelfCheck) -> str:
    known = "" if check.reference is None else f", {check.reference:.1f} % recorded"
    return (
        f"self-check: k-NN of the class token {check.teacher:.1f} %, of raw pixels {check.pixels:.1f} %{known} "
        f"({check.images} training images, k = {_NEIGHBOURS}); at least {check.floor:.1f} % is asked for"
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
    teacher, images = context.config.teacher, context.images("train")
    chosen = permutation(context.config.views.seed, "self-check", 0, len(images))[: teacher.check_images]
    chosen.sort()
    features = embed_split(
        loaded.model,
        images,
        context.recipe,
        crop_share=context.config.views.evaluation_crop,
        batch_size=context.config.runtime.evaluation_batch_size,
        device=context.device,
        indices=chosen,
    )
    classes = len(read_manifest(context.layout.data)["class_names"])
    found = _nearest_neighbours(features, classes)
    raw = _nearest_neighbours(LabelledFeatures(_raw_pixels(context, images, chosen), features.labels), classes)
    floor = max(teacher.check_floor * raw, (teacher.check_reference or 0.0) - teacher.check_slack)
    return SelfCheck(len(chosen), found, raw, teacher.check_reference, floor)


def _nearest_neighbours(features: LabelledFeatures, classes: int) -> float:
    """k-NN top-1 of the last part of the subset by the first."""
    cut = int(len(features.labels) * (1 - _HELD_OUT))
    bank = LabelledFeatures(features.features[:cut], features.labels[:cut])
    asked = LabelledFeatures(features.features[cut:], features.labels[cut:])
    found: ProbeResult = knn(ProbeData(bank, np.arange(1), asked, classes), neighbours=[_NEIGHBOURS])
    return found.top1


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

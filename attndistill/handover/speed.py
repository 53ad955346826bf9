"""How fast a finished model is on this machine, beside its teacher."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from attndistill.exhibits.making import flops_of
from attndistill.handover.models import Finished, open_finished
from attndistill.models.vit import count_parameters
from attndistill.stages.layout import MODELS
from attndistill.tracking.lineage import processor

BATCH = 16
_SECONDS = 1.0  # that a model is run


@dataclass(frozen=True)
class Speed:
    """Of one model: parameters, FLOPs of an image, images a second in batches of `BATCH` on the CPU."""

    parameters: int
    flops: int
    images_a_second: float


@dataclass(frozen=True)
class Speeds:
    """Of a model and of its teacher, where that is stored; and where they were measured."""

    own: Speed
    teacher: Speed | None
    place: str


def measure_speeds(finished: Finished, opened: Any) -> Speeds:
    """Run both for a second. `opened` is the model as timm has it."""
    teacher = None
    experiment = finished.experiment
    if experiment is not None and finished.name not in MODELS and experiment.layout.model("teacher").is_dir():
        stored = open_finished("teacher", experiment.folder, {})
        teacher = _measured(stored.backbone.cpu().float().eval(), stored.image_size)
    threads = torch.get_num_threads()
    place = f"{processor()}, {threads} thread{'s' if threads > 1 else ''}, batches of {BATCH}"
    own = replace(_measured(opened, finished.image_size), parameters=count_parameters(finished.backbone))  # no head's
    return Speeds(own, teacher, place)


def _measured(model: Any, side: int) -> Speed:
    images = torch.zeros(BATCH, 3, side, side)
    with torch.no_grad():
        model.forward_features(images)  # the first call is slower
        count, start = 0, time.perf_counter()
        while (taken := time.perf_counter() - start) < _SECONDS or not count:
            model.forward_features(images)
            count += BATCH
    return Speed(count_parameters(model), flops_of(model), count / taken)

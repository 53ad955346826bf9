"""How fast finished models are on this machine: for the card of one, beside its teacher, and for the report's page.

As a program (`main`) it tells the report, which does without torch, the speeds of stored models as one line of JSON.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attndistill.core.words import shown
from attndistill.exhibits.making import flops_of
from attndistill.models.storage import load_model
from attndistill.models.vit import count_parameters
from attndistill.report.speeds import Speed, Speeds
from attndistill.stages.layout import MODELS
from attndistill.tracking.lineage import processor

if TYPE_CHECKING:
    from attndistill.handover.models import Finished

BATCH = 16
_ROUNDS, _SECONDS = 5, 0.2  # that a model is run
_ENOUGH = 20.0  # seconds after which no further round begins: of large models, one batch takes longer than a round


def measure_speeds(finished: "Finished", opened: Any) -> Speeds:
    """Of a model, which timm has opened, and of its teacher, where that is stored."""
    from attndistill.handover.models import open_finished

    models, experiment = [(opened, finished.image_size)], finished.experiment
    if experiment is not None and finished.name not in MODELS and experiment.layout.model("teacher").is_dir():
        stored = open_finished("teacher", experiment.folder, {})
        models.append((stored.backbone.cpu().float().eval(), stored.image_size))
    found = measure_together(models)
    own = found.models[0].model_copy(update={"parameters": count_parameters(finished.backbone)})  # no head's
    return found.model_copy(update={"models": (own, *found.models[1:])})


def measure_together(models: Sequence[tuple[Any, int]]) -> Speeds:
    """Each model, with the side of its images, for a second in all: in turns, so that other work slows all alike.

    Images a second are of batches of `BATCH` on the CPU.
    """
    start, rounds = time.perf_counter(), list[list[float]]()
    with torch.no_grad():
        while len(rounds) <= _ROUNDS and (len(rounds) < 2 or time.perf_counter() - start < _ENOUGH):
            seconds = _SECONDS if rounds else 0.0  # the first call is slower, and does not count
            rounds.append([_rate(model, torch.zeros(BATCH, 3, side, side), seconds) for model, side in models])
    rates = [statistics.median(found) for found in zip(*rounds[1:], strict=True)]
    speeds = [
        Speed(parameters=count_parameters(model), flops=flops_of(model), images_a_second=rate)
        for (model, _), rate in zip(models, rates, strict=True)
    ]
    threads = torch.get_num_threads()
    place = f"{shown(processor(), 100)}, {threads} thread{'s' if threads > 1 else ''}, batches of {BATCH}"
    return Speeds(place=place, models=tuple(speeds))


def _rate(model: Any, images: torch.Tensor, seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds or not count:
        model.forward_features(images)
        count += BATCH
    return count / taken


def main(folders: Sequence[str]) -> None:
    """Print the speeds of stored models, by their folders."""
    backbones = [load_model(Path(folder))[0].cpu().float().eval() for folder in folders]
    print(measure_together([(one, int(one.patch_embed.img_size[0])) for one in backbones]).model_dump_json())

"""Linear probes: a step with one head beside one with DINOv2's 52 or iBOT's 45 (`make bench`, part probes).

A step reads the backbone once, whatever the heads. 45 solo runs cost 45 times the step with iBOT's one feature and one
head; the ratio to one pass follows from the seconds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from attndistill.data.loading import Batch
from attndistill.evaluations.heads import DINOV2_RATES, IBOT_RATES
from attndistill.models.vit import build_vit
from attndistill.tasks.linear_heads import Feature, LinearHeads
from attndistill.training.optimizers import sgd
from benchmarks.timing import compared, interleaved


def measure(
    *, repeats: int, images: int, image_size: int, classes: int, vit: Mapping[str, Any], blocks: int
) -> dict[str, Any]:
    """Seconds of a step.

    Args:
        repeats: rounds.
        images: of a batch.
        image_size: side of a view.
        classes: of the heads.
        vit: sizes of the backbone.
        blocks: the last blocks of the wider features.
    """
    backbone = build_vit(image_size, 0, **vit)
    draws = torch.Generator().manual_seed(0)
    views = torch.randn(images, 3, image_size, image_size, generator=draws)
    batch = Batch(views, torch.arange(images) % classes, np.arange(images), 0)
    wide = [Feature(last, mean) for last in (1, blocks) for mean in (False, True)]
    ways = {
        "1 head": (wide[-1:], [1.0]),
        "52 heads on 4 features": (wide, DINOV2_RATES),
        "1 head, CLS": (wide[2:3], [1.0]),
        "45 heads, CLS": (wide[2:3], IBOT_RATES),
    }
    steps = {
        name: _step(LinearHeads(backbone, classes, 0, features=features, rates=rates), batch)
        for name, (features, rates) in ways.items()
    }
    return {"heads": {"ways": compared(interleaved(steps, repeats, label="heads"), "1 head", images)}}


def _step(task: LinearHeads, batch: Batch) -> Callable[[], None]:
    task.train()
    optimizer = sgd(task)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task(batch)["loss"].backward()
        optimizer.step()

    return step

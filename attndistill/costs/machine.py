"""How fast this machine is: measured for about a second with the student that is to be trained.

Images are not loaded, and no other process is waited for, so what is said from it is "about".
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch

from attndistill.config import Config
from attndistill.costs.models import Sizes, student_flops
from attndistill.models.readout import read_fields
from attndistill.models.vit import build_vit

_SECONDS = 0.5  # of each of the two measurements
_FEWEST = 3  # calls that are timed: one alone may be the first, or was interrupted
_LEAST = 0.02  # a shorter step says more of Python than of the machine
_START = 8.0  # seconds of the processor at most that a start is said to take; a test that has run for an hour is none


@dataclass(frozen=True)
class Machine:
    """What was measured here.

    Attributes:
        rate: FLOP/s of training steps on the device.
        host_rate: FLOP/s of double-precision products on the CPU: what logistic regression does.
        start: seconds in which a stage's process has imported what it needs.
        side_by_side: models that are worked on at once.
        cuda: whether the device is a GPU of NVIDIA's.
    """

    rate: float
    host_rate: float
    start: float
    side_by_side: int
    cuda: bool = False

    def seconds(self, flops: float, host: float = 0.0, models: int = 1) -> float:
        """How long operations take on the device and on the host, of so many models."""
        return (flops / self.rate + host / self.host_rate) / min(models, self.side_by_side)


def measured(config: Config) -> Machine:
    """This machine, with the configured threads."""
    started = min(time.process_time(), _START)
    cuda = torch.cuda.is_available() and config.runtime.device in ("auto", "cuda")
    threads, before = config.runtime.threads, torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        sizes = tuple(config.student.plain().items())
        rate = _training_rate(config.views.image_size, sizes, config.distill.recipe.batch_size, cuda)
        host = _product_rate()
    finally:
        torch.set_num_threads(before)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(rate, host, started, 1 if cuda or threads != 1 else min(cores, config.runtime.processes), cuda)


@cache
def _training_rate(image_size: int, sizes: Sizes, batch: int, cuda: bool) -> float:
    """FLOP/s of the student's own steps, a batch at a time or as much of it as half a second allows."""
    device = torch.device("cuda" if cuda else "cpu")
    student = build_vit(image_size, 0, **dict(sizes)).to(device)
    flops = student_flops(image_size, sizes)

    def step(images: int) -> None:
        read = read_fields(student, torch.zeros(images, 3, image_size, image_size, device=device), ("log_attention",))
        assert read.log_attention is not None
        (read.cls_token.sum() + read.log_attention.sum()).backward()
        if cuda:
            torch.cuda.synchronize()

    images = 1
    step(images)  # the first allocates
    while images < batch and _timed(partial(step, images)) < _LEAST:
        images = min(batch, images * 4)
    return flops * images / _timed(partial(step, images))


@cache
def _product_rate() -> float:
    """FLOP/s of products as of features and a regression's weights, in double precision."""
    rows, width, classes = 2048, 128, 16
    one, other = torch.ones(rows, width, dtype=torch.float64), torch.ones(width, classes, dtype=torch.float64)
    return 2 * rows * width * classes / _timed(lambda: one @ other)


def _timed(what: Callable[[], object]) -> float:
    """The seconds of one call, the least of those in half a second: what others do here is left out."""
    found, begun = list[float](), time.perf_counter()
    while len(found) < _FEWEST or time.perf_counter() - begun < _SECONDS / 4:
        before = time.perf_counter()
        what()
        found.append(time.perf_counter() - before)
    return min(found)


def lasting(seconds: float) -> str:
    """In words, to what a measurement of a second is worth."""
    if seconds < 1:
        return "under a second"
    for size, most, word in ((1, 90, "seconds"), (60, 90, "minutes"), (3600, 72, "hours")):
        if seconds < size * most:
            return f"about {_rounded(seconds / size)} {word}"
    return f"about {_rounded(seconds / 86400)} days"


def _rounded(amount: float) -> str:
    return f"{amount:.1f}" if amount < 9.5 else f"{amount:,.0f}"

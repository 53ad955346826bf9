"""One way of making a training step, ready to be timed: the published algorithm or the package's own loop and task."""

import copy
import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim import AdamW, Optimizer

from attndistill.core.features import Features
from attndistill.data.loading import Batch
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.targets import CachedTargets, LiveTeacher, write_targets
from attndistill.training.loop import update
from attndistill.training.meter import Meter
from attndistill.training.optimizers import adamw
from benchmarks.configurations import Pair
from benchmarks.machine import PRECISIONS, as_it_comes, products_in, synchronise

PHASES = ("teacher", "student", "backward", "optimizer")
_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Variant:
    """What is timed: "reference" (published), "exact" (the package, teacher in the step) or "cached"."""

    algorithm: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.algorithm} {self.precision}"


REFERENCE = Variant("reference", "fp32")
VARIANTS = [Variant(algorithm, precision) for precision in PRECISIONS for algorithm in ("reference", "exact", "cached")]


class Clock:
    """When the parts of a step began and ended. On a GPU it waits for the device, and only while it is asked to."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.runs, self.marks = device, False, dict[str, float]()

    def mark(self, name: str) -> None:
        if self.runs:
            synchronise(self.device)
            self.marks[name] = time.perf_counter()

    def around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, with its beginning and end marked."""

        @wraps(function)
        def marked(*arguments: Any) -> Any:
            self.mark(f"{name} begins")
            answer = function(*arguments)
            self.mark(f"{name} ends")
            return answer

        return marked

    def watch(self, task: nn.Module, optimizer: Optimizer) -> None:
        """Mark a task's forward pass and an optimizer's step."""
        task.register_forward_pre_hook(lambda *_: self.mark("forward begins"))
        task.register_forward_hook(lambda *_: self.mark("forward ends"))
        optimizer.register_step_pre_hook(lambda *_: self.mark("optimizer begins"))
        optimizer.register_step_post_hook(lambda *_: self.mark("optimizer ends"))

    def phases(self) -> dict[str, float]:
        """Seconds of each part of the last step; the teacher runs inside the forward pass."""
        teacher = self._between("teacher begins", "teacher ends")
        return {
            "teacher": teacher,
            "student": self._between("forward begins", "forward ends") - teacher,
            "backward": self._between("forward ends", "optimizer begins"),
            "optimizer": self._between("optimizer begins", "optimizer ends"),
        }

    def _between(self, begin: str, end: str) -> float:
        return self.marks[end] - self.marks[begin]


@dataclass
class Prepared:
    """A variant with weights, optimizer state and a batch of its own."""

    variant: Variant
    step: Callable[..., object]
    clock: Clock


def prepare(variant: Variant, pair: Pair, batch: Batch, targets: Path | None) -> Prepared:
    """Build a variant on copies of the pair's weights.

    Args:
        variant: which.
        pair: the weights that every variant starts from.
        batch: the views of a step that is given no others.
        targets: a cache of the teacher's answers to them; None where the variant reads none.
    """
    clock = Clock(pair.device)
    batch = dataclasses.replace(batch, images=batch.images.to(pair.device))
    if variant.algorithm == "reference":
        step = _published(variant.precision, pair, clock)
    else:
        own = dataclasses.replace(pair, student=copy.deepcopy(pair.student))
        teach: Callable[[Batch], Features] = LiveTeacher(pair.teacher, pair.device)
        if variant.algorithm == "cached":
            assert targets is not None
            teach = CachedTargets(targets, pair.device, {})
        step = _package(variant.precision, own, teach, clock)

    def in_precision(given: Batch = batch) -> None:
        with products_in(variant.precision):
            step(given)

    return Prepared(variant, as_it_comes(in_precision) if variant.algorithm == "reference" else in_precision, clock)


def stored(
    teacher: LiveTeacher,
    images: ImageSet,
    recipe: ViewRecipe,
    folder: Path,
    *,
    batch_size: int,
    views: int = 1,
    verify: int = 1,
) -> Path:
    """A cache of the teacher's answers in `folder`, made anew."""
    write_targets(
        teacher,
        images,
        recipe,
        folder / "targets",
        unfinished=folder / "unfinished",
        identity={},
        views=views,
        verify=verify,
        batch_size=batch_size,
        processes=1,
    )
    return folder / "targets"


def _published(precision: str, pair: Pair, clock: Clock) -> Callable[[Batch], None]:
    """A plain training loop's step: torch's AdamW as it comes."""
    task = pair.reference()
    optimizer = AdamW(param_groups_weight_decay(task, weight_decay=0.05), lr=_LEARNING_RATE, betas=(0.9, 0.95))
    task.teacher.forward = clock.around(task.teacher.forward, "teacher")  # type: ignore[method-assign]
    clock.watch(task, optimizer)

    def step(batch: Batch) -> None:
        with torch.autocast(pair.device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            loss = task(batch.images)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _package(precision: str, pair: Pair, teach: Callable[[Batch], Features], clock: Clock) -> Callable[[Batch], None]:
    """The step of `training.loop`, its meter and its look at the loss included."""
    task = pair.task(clock.around(teach, "teacher"))
    optimizer: Any = adamw(task)
    clock.watch(task, optimizer)
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=pair.device.type == "cpu")
    prepared, optimizer = accelerator.prepare(task, optimizer)
    prepared.train()
    meter = Meter(pair.device.type)
    done = 0

    def step(batch: Batch) -> None:
        nonlocal done
        update(prepared, optimizer, [batch], _LEARNING_RATE, done, meter, accelerator, drop_unfinite=False)
        meter.check(done)
        done += 1

    return step

"""One training run: task, recipe, seed, checkpoint, curves. What pre-training, distillation and probes share."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from attndistill.core.progress import progress
from attndistill.core.randomness import derived_seed
from attndistill.core.side_by_side import side_by_side
from attndistill.data.loading import Augments, Schedule, ViewEpoch, training_batches
from attndistill.data.store import ChosenImages, ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.training import OPTIMIZERS
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import History, Observers, Plan, fit
from attndistill.training.optimizers import PER_STEP, RateCurve
from attndistill.training.recipe import Recipe

Evaluate = Callable[[int], dict[str, float] | None]
# (seed, backbone, epochs done) -> more figures of that epoch, or None; may raise to end the run
Look = Callable[[int, nn.Module, int], dict[str, float] | None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Execution:
    """How work is done. Nothing here changes what comes out of it, but for the last bits of sums.

    Attributes:
        device: where.
        processes: seeds and views worked on side by side; more than one needs a CPU, one rank and one torch thread.
        workers: loader processes.
        micro_batch_size: images that a process takes at once; None: its whole share of the batch.
        evaluation_batch_size: images read at once where nothing is trained.
        checkpoint_seconds: least time between resume checkpoints.
        is_main: whether this process shows and writes; of a distributed run, only the first does.
        label: what is going on, for the progress display.
        at_step: called with the steps done, in place of a progress display.
        at_epoch: (seed, epoch, {curve: value}): where finished epochs are reported.
    """

    device: torch.device
    processes: int = 1
    workers: int = 0
    micro_batch_size: int | None = None
    evaluation_batch_size: int = 256
    checkpoint_seconds: float = 20.0
    is_main: bool = True
    label: str = "training"
    at_step: Callable[[int], None] | None = None
    at_epoch: Callable[[int, int, dict[str, float]], None] = lambda seed, epoch, values: None


@dataclass(frozen=True)
class Trained:
    """One seed's result: the model, its curves, and the checkpoint that is removed once both are safe."""

    model: Any
    history: History
    checkpoint: Checkpoint


def train(
    task: nn.Module,
    recipe: Recipe,
    images: ImageSet,
    views: ViewRecipe,
    checkpoint: Checkpoint,
    execution: Execution,
    *,
    seed: int,
    view_epoch: ViewEpoch = lambda epoch: epoch,
    evaluate: Evaluate = lambda epoch: None,
    published: bool = False,
    data_fraction: float = 1.0,
    curve: RateCurve = PER_STEP,
    augmentation: Augments | None = None,
    repeats: int = 1,
) -> History:
    """Train `task` by `recipe`, from its checkpoint when there is one; returns its curves, one point an epoch.

    `published` samples and drops batches as the published code does; `data_fraction` of the images are shown; `curve`
    shapes the learning rate; `augmentation` and `repeats` are of the views (`data.loading`).
    """
    accelerator = make_accelerator(execution, recipe)
    length = images_shown(len(images), data_fraction)
    schedule = make_schedule(recipe, execution, length, seed, accelerator.num_processes, accelerator.process_index)
    drawn_from = None if data_fraction == 1 else len(images)
    schedule = replace(schedule, order_per_rank=published, repeats=repeats, drawn_from=drawn_from)
    copies = images if repeats == 1 else ChosenImages(images, np.repeat(np.arange(len(images)), repeats))
    plan = Plan(
        steps=schedule.steps,
        steps_per_epoch=schedule.steps_per_epoch,
        micro_batches=schedule.micro_batches,
        peak_learning_rate=recipe.peak_learning_rate,
        warmup_steps=recipe.warmup_epochs * schedule.steps_per_epoch,
        checkpoint_seconds=execution.checkpoint_seconds,
        drop_unfinite=published,
        curve=curve,
    )
    task.to(accelerator.device)
    optimizer = OPTIMIZERS.bind(recipe.optimizer.name, recipe.optimizer.options())(task)
    owned = checkpoint.owned() if execution.is_main else nullcontext()
    shown = execution.is_main and execution.at_step is None
    label = f"{execution.label} seed {seed}"
    with owned, progress(label, plan.steps, "steps", checkpoint.steps_done(), shown=shown) as at_step:
        observers = Observers(
            execution.at_step or at_step, lambda epoch, values: execution.at_epoch(seed, epoch, values), evaluate
        )
        return fit(
            task,
            optimizer,
            lambda first_step: training_batches(
                copies,
                views,
                schedule,
                first_step=first_step,
                workers=execution.workers,
                view_epoch=view_epoch,
                augmentation=augmentation,
            ),
            plan,
            checkpoint,
            accelerator,
            observers,
        )


def train_seeds(
    seeds: Sequence[int],
    recipe: Recipe,
    length: int,
    execution: Execution,
    run: Callable[[int, Execution], Result],
) -> dict[int, Result]:
    """Train every seed, several at a time where `execution.processes` allows; the result is the same.

    The parent finds the checkpoints its children finished and goes through them as if it had trained them; the epochs
    that they reported while they trained, it does not report again.
    """
    if execution.processes > 1 and len(seeds) > 1:
        steps = make_schedule(recipe, execution, length, 0, 1, 0).steps

        def train_one(seed: int, at_step: Callable[[int], None]) -> None:
            run(seed, replace(execution, at_step=at_step))

        label = f"{execution.label} {len(seeds)} seeds"
        side_by_side(train_one, seeds, execution.processes, steps=steps, label=label, unit="steps")
        execution = replace(execution, at_epoch=lambda seed, epoch, values: None)
    return {seed: run(seed, execution) for seed in seeds}


def make_accelerator(execution: Execution, recipe: Recipe) -> Accelerator:
    """The device, precision and processes of one run. Runs of different precision may follow in one process."""
    AcceleratorState._reset_state(reset_partial_state=False)
    precision = "bf16" if recipe.precision == "bf16" else "no"
    return Accelerator(mixed_precision=precision, cpu=execution.device.type == "cpu")


def images_shown(length: int, data_fraction: float) -> int:
    """How many of `length` training images a share of them is."""
    return max(1, round(length * data_fraction))


def make_schedule(recipe: Recipe, execution: Execution, length: int, seed: int, ranks: int, rank: int) -> Schedule:
    """Which images each step takes. Raises ValueError when the batch cannot be cut as asked."""
    share = execution.micro_batch_size or max(1, recipe.batch_size // ranks)
    if recipe.batch_size % (share * ranks):
        raise ValueError(
            f"batch_size {recipe.batch_size} is not a multiple of {share} images x {ranks} ranks; "
            "set runtime.micro_batch_size to a divisor"
        )
    return Schedule(
        length=length,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        seed=derived_seed(seed, "order"),
        micro_batches=recipe.batch_size // (share * ranks),
        ranks=ranks,
        rank=rank,
    )

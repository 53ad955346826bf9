"""One training run of a stage: a task, a seed, a checkpoint, curves. Shared by pre-training and distillation."""

import csv
import io
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from attndistill.config import Recipe, Runtime
from attndistill.core.artifacts import replacing_directory, write_json, write_text
from attndistill.core.progress import progress
from attndistill.core.randomness import derived_seed
from attndistill.core.side_by_side import side_by_side
from attndistill.data.loading import Schedule, ViewEpoch, training_batches
from attndistill.data.store import ImageSet
from attndistill.models.families import Backbone
from attndistill.models.projector import Student
from attndistill.models.storage import save_model
from attndistill.stages.context import Context
from attndistill.training import OPTIMIZERS
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import History, Observers, Plan, fit

Evaluate = Callable[[int], dict[str, float] | None]


@dataclass(frozen=True)
class Trained:
    """One seed's result: model, curves, and the checkpoint that is removed once both are safe."""

    model: Backbone | Student
    history: History
    checkpoint: Checkpoint


def train(
    task: nn.Module,
    recipe: Recipe,
    images: ImageSet,
    context: Context,
    checkpoint: Checkpoint,
    *,
    seed: int,
    view_epoch: ViewEpoch = lambda epoch: epoch,
    evaluate: Evaluate = lambda epoch: None,
    published: bool = False,
) -> History:
    """Train `task` by `recipe`, from its checkpoint when there is one; returns its curves, one point an epoch.

    `published` samples and drops batches as the published code does.
    """
    runtime = context.config.runtime
    accelerator = make_accelerator(context, recipe)
    schedule = make_schedule(recipe, runtime, len(images), seed, accelerator.num_processes, accelerator.process_index)
    schedule = replace(schedule, order_per_rank=published)
    plan = Plan(
        steps=schedule.steps,
        steps_per_epoch=schedule.steps_per_epoch,
        micro_batches=schedule.micro_batches,
        peak_learning_rate=recipe.peak_learning_rate,
        warmup_steps=recipe.warmup_epochs * schedule.steps_per_epoch,
        checkpoint_seconds=runtime.checkpoint_seconds,
        drop_unfinite=published,
    )
    task.to(accelerator.device)
    optimizer = OPTIMIZERS.bind(recipe.optimizer.name, recipe.optimizer.options())(task)
    label = f"{context.stage} {context.item} seed {seed}"
    owned = checkpoint.owned() if context.is_main else nullcontext()
    shown = context.is_main and context.told is None
    with owned, progress(label, plan.steps, "steps", checkpoint.steps_done(), shown=shown) as at_step:
        observers = Observers(context.told or at_step, _curves(context, seed), evaluate)
        return fit(
            task,
            optimizer,
            lambda first_step: training_batches(
                images, context.recipe, schedule, first_step=first_step, workers=runtime.workers, view_epoch=view_epoch
            ),
            plan,
            checkpoint,
            accelerator,
            observers,
        )


def _curves(context: Context, seed: int) -> Callable[[int, dict[str, float]], None]:
    """Who tells the journal of a finished epoch: a run's whole history, once."""

    def tell(epoch: int, values: dict[str, float]) -> None:
        if not context.curves_told:
            context.journal.metrics({f"seed-{seed}/{name}": value for name, value in values.items()}, step=epoch)

    return tell


def train_seeds(
    context: Context, recipe: Recipe, images: ImageSet, run: Callable[[Context, int], Trained]
) -> dict[int, Trained]:
    """Train every seed, several at a time where that is possible; the result is the same.

    The parent finds the checkpoints its children finished and goes on as if it had trained them; what they told the
    journal while they trained, it does not tell again.
    """
    if context.forks > 1 and len(context.seeds) > 1:
        steps = make_schedule(recipe, context.config.runtime, len(images), 0, 1, 0).steps
        label = f"{context.stage} {context.item} {len(context.seeds)} seeds"

        def train_one(seed: int, told: Callable[[int], None]) -> None:
            run(replace(context, told=told), seed)

        side_by_side(train_one, context.seeds, context.forks, steps=steps, label=label, unit="steps")
        context = replace(context, curves_told=True)
    return {seed: run(context, seed) for seed in context.seeds}


def make_accelerator(context: Context, recipe: Recipe) -> Accelerator:
    """The device, precision and processes of one run. Runs of different precision may follow in one process."""
    AcceleratorState._reset_state(reset_partial_state=False)
    precision = "bf16" if recipe.precision == "bf16" else "no"
    return Accelerator(mixed_precision=precision, cpu=context.device.type == "cpu")


def make_schedule(recipe: Recipe, runtime: Runtime, length: int, seed: int, ranks: int, rank: int) -> Schedule:
    """Which images each step takes. Raises ValueError when the batch cannot be cut as asked."""
    share = runtime.micro_batch_size or max(1, recipe.batch_size // ranks)
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


def store(context: Context, kind: str, vit: dict[str, Any], trained: Mapping[int, Trained]) -> None:
    """Store models and curves of all seeds, then remove their resume checkpoints. For one process of a run."""
    with replacing_directory(context.layout.model(context.item)) as directory:
        for seed, result in trained.items():
            image_size = context.config.views.image_size
            save_model(directory / f"seed-{seed}", result.model, image_size=image_size, vit=vit)
    _write_curves(context, kind, {seed: result.history for seed, result in trained.items()})
    context.journal.artifact(context.layout.model(context.item), folder="model")
    for result in trained.values():
        result.checkpoint.remove()


def _write_curves(context: Context, kind: str, histories: Mapping[int, History]) -> None:
    """results/<experiment>/training/<item>.json and .csv: every curve of every seed, and its last values."""
    last = {
        name: sum(history[name][-1][1] for history in histories.values()) / len(histories)
        for name in next(iter(histories.values()))
    }
    value: dict[str, Any] = {
        "name": context.item,
        "kind": kind,
        "unit": "epoch",
        "curves": {str(seed): history for seed, history in histories.items()},
        "summary": last,
    }
    write_json(context.layout.result("training", f"{context.item}.json"), value)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "epoch", "curve", "value"])
    for seed, history in histories.items():
        for name, points in history.items():
            writer.writerows([seed, int(epoch), name, f"{point:.9g}"] for epoch, point in points)
    write_text(context.layout.result("training", f"{context.item}.csv"), text.getvalue())

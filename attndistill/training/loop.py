"""The only training loop: load, task(batch), update, record, checkpoint.

A task is a module whose forward takes a batch and returns named losses, "loss" among them. The loop knows nothing of
distillation or masking. A run killed at any step and started again ends with the same bytes as one that was not.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from attndistill.training.checkpoint import Checkpoint
from attndistill.training.optimizers import learning_rate

History = dict[str, list[list[float]]]  # curve name -> [epoch, value] pairs
_CHECK_EVERY = {"cpu": 1}  # steps between looks at the losses; elsewhere a look would stall the device
_CHECK_ELSEWHERE = 16


class TrainingBatch(Protocol):
    """What the loop needs to know of a batch."""

    @property
    def indices(self) -> NDArray[Any]: ...
    @property
    def epoch(self) -> int: ...


@runtime_checkable
class KeepsState(Protocol):
    """A task whose buffers change once an update, whatever the micro-batches."""

    def after_update(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How long and how fast a run trains.

    Attributes:
        steps: updates in all.
        steps_per_epoch: updates in an epoch.
        micro_batches: batches that one update accumulates.
        peak_learning_rate: after warm-up.
        warmup_steps: of linear warm-up.
        checkpoint_seconds: least time between checkpoints; changes no result.
    """

    steps: int
    steps_per_epoch: int
    micro_batches: int
    peak_learning_rate: float
    warmup_steps: int
    checkpoint_seconds: float


@dataclass
class Observers:
    """Who is told what during a run; none of them can change its result.

    Attributes:
        at_step: called with steps done, after every update (progress).
        at_epoch: called with (epoch done, {curve: value}) when an epoch's figures are known.
        evaluate: extra figures at the end of an epoch, or None when this epoch has none; they become curves.
    """

    at_step: Callable[[int], None] = lambda step: None
    at_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, values: None
    evaluate: Callable[[int], dict[str, float] | None] = lambda epoch: None


@dataclass
class _Meter:
    """Sums of an epoch's losses, and the losses not yet known to be finite."""

    device: str
    sums: dict[str, Tensor] = field(default_factory=dict)
    pending: list[tuple[int, TrainingBatch, Tensor]] = field(default_factory=list)

    def add(self, step: int, batch: TrainingBatch, losses: dict[str, Tensor], share: float) -> None:
        for name, value in losses.items():
            value = value.detach().double() * share
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.pending.append((step, batch, losses["loss"].detach()))

    def check(self, step: int, *, force: bool = False) -> None:
        """Raise FloatingPointError for the first non-finite loss."""
        if not force and (step + 1) % _CHECK_EVERY.get(self.device, _CHECK_ELSEWHERE):
            return
        finite = torch.stack([loss for _, _, loss in self.pending]).isfinite().tolist() if self.pending else []
        for (bad_step, batch, loss), good in zip(self.pending, finite, strict=True):
            if not good:
                indices = ", ".join(map(str, batch.indices.tolist()))
                raise FloatingPointError(
                    f"loss is {loss.item()} at step {bad_step}, epoch {batch.epoch}, image indices [{indices}]"
                )
        self.pending.clear()


def fit(
    task: nn.Module,
    optimizer: Optimizer,
    batches: Callable[[int], Iterable[TrainingBatch]],
    plan: Plan,
    checkpoint: Checkpoint,
    accelerator: Accelerator,
    observers: Observers,
) -> History:
    """Train `task` to the end of `plan`, from its checkpoint when there is one.

    Args:
        task: batch -> {"loss": ..., ...}; trained in place.
        optimizer: over the task's trainable parameters.
        batches: first step -> this rank's micro-batches from there on.
        plan: steps and learning rates.
        checkpoint: of this very run, already owned.
        accelerator: device, precision and processes.
        observers: progress, curves, evaluation.

    Returns:
        The curves, one point an epoch.

    Raises:
        FloatingPointError: a loss is not finite; names step, epoch and image indices. The last checkpoint stays.
        ValueError: the checkpoint belongs to another run.
    """
    trainable = task
    task, optimizer = accelerator.prepare(task, optimizer)
    meter, history, first_step = _restore(trainable, optimizer, checkpoint, accelerator.device)
    _replay(history, observers)
    last_saved = time.monotonic()
    task.train()
    for step, micro_batches in _grouped(batches(first_step), first_step, plan.micro_batches):
        rate = learning_rate(step, peak=plan.peak_learning_rate, steps=plan.steps, warmup_steps=plan.warmup_steps)
        _update(task, optimizer, micro_batches, rate, step, meter, accelerator)
        meter.check(step)
        if isinstance(trainable, KeepsState):
            trainable.after_update()
        epoch, step_in_epoch = divmod(step + 1, plan.steps_per_epoch)
        if step_in_epoch == 0:
            meter.check(step, force=True)
            _close_epoch(epoch, rate, meter, history, plan, accelerator, observers)
            task.train()
        observers.at_step(step + 1)
        if time.monotonic() - last_saved >= plan.checkpoint_seconds or step + 1 == plan.steps:
            meter.check(step, force=True)
            if accelerator.is_main_process:
                checkpoint.save(_state(trainable, optimizer, meter, history, step + 1))
            last_saved = time.monotonic()
    return history


def _grouped(batches: Iterable[TrainingBatch], first_step: int, size: int) -> Iterator[tuple[int, list[TrainingBatch]]]:
    step, group = first_step, []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield step, group
            step, group = step + 1, []
    assert not group, "the loader ended in the middle of a step"


def _update(
    task: nn.Module,
    optimizer: Optimizer,
    micro_batches: list[TrainingBatch],
    rate: float,
    step: int,
    meter: _Meter,
    accelerator: Accelerator,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    share = 1 / len(micro_batches)
    for number, batch in enumerate(micro_batches):
        last = number == len(micro_batches) - 1
        with nullcontext() if last else accelerator.no_sync(task):  # ranks exchange gradients once an update
            losses = task(batch)
            accelerator.backward(losses["loss"] * share)
        meter.add(step, batch, losses, share)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _close_epoch(
    epoch: int,
    rate: float,
    meter: _Meter,
    history: History,
    plan: Plan,
    accelerator: Accelerator,
    observers: Observers,
) -> None:
    values = {
        name: float(accelerator.reduce(total, reduction="mean")) / plan.steps_per_epoch
        for name, total in meter.sums.items()
    }
    meter.sums.clear()
    values |= {"learning_rate": rate} | (observers.evaluate(epoch) or {})
    for name, value in values.items():
        history.setdefault(name, []).append([epoch, value])
    observers.at_epoch(epoch, values)


def _replay(history: History, observers: Observers) -> None:
    """Tell the observers of a resumed run what happened before, so that their curves are whole."""
    by_epoch: dict[int, dict[str, float]] = {}
    for name, points in history.items():
        for epoch, value in points:
            by_epoch.setdefault(int(epoch), {})[name] = value
    for epoch in sorted(by_epoch):
        observers.at_epoch(epoch, by_epoch[epoch])


def _changing_state(task: nn.Module) -> dict[str, Tensor]:
    """What a run changes: trained parameters and buffers; what is frozen is built again."""
    frozen = {name for name, parameter in task.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in task.state_dict().items() if name not in frozen}


def _state(task: nn.Module, optimizer: Optimizer, meter: _Meter, history: History, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "task": _changing_state(task),
        "optimizer": optimizer.state_dict(),
        "sums": dict(meter.sums),
        "history": history,
    }


def _restore(
    task: nn.Module, optimizer: Optimizer, checkpoint: Checkpoint, device: torch.device
) -> tuple[_Meter, History, int]:
    state = checkpoint.load()
    if state is None:
        return _Meter(device.type), {}, 0
    missing, unexpected = task.load_state_dict(state["task"], strict=False)
    assert not unexpected and not set(missing) & set(_changing_state(task))  # noqa: PT018
    optimizer.load_state_dict(state["optimizer"])
    sums = {name: total.to(device) for name, total in state["sums"].items()}
    return _Meter(device.type, sums), state["history"], state["step"]

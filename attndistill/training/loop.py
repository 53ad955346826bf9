"""The only training loop: load, task(batch), update, record, checkpoint.

A task is a module whose forward takes a batch and returns named losses, "loss" among them. The loop knows nothing of
distillation or masking. A run killed at any step and started again ends with the same bytes as one that was not.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from attndistill.training.checkpoint import Checkpoint
from attndistill.training.meter import Meter, TrainingBatch
from attndistill.training.optimizers import PER_STEP, RateCurve, learning_rate
from attndistill.training.state import History as History
from attndistill.training.state import State, fitting


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
        drop_unfinite: leave out an update whose gradients are not finite, as the published code does, and count it in
            the curve "dropped"; else such a loss stops the run.
        curve: the shape of the learning rate.
    """

    steps: int
    steps_per_epoch: int
    micro_batches: int
    peak_learning_rate: float
    warmup_steps: int
    checkpoint_seconds: float
    drop_unfinite: bool = False
    curve: RateCurve = PER_STEP

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 0."""
        step -= step % self.steps_per_epoch if self.curve.per_epoch else 0
        return learning_rate(
            step, peak=self.peak_learning_rate, steps=self.steps, warmup_steps=self.warmup_steps, curve=self.curve
        )


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
        FloatingPointError: a loss is not finite; names step, epoch and image indices. Or a weight is not when it is to
            be saved; names step, epoch and the largest learning rate. The last checkpoint stays.
        ValueError: the checkpoint is damaged, or does not fit this run.
    """
    trainable = task
    task, optimizer = accelerator.prepare(task, optimizer)
    meter, history, first_step = _restore(trainable, optimizer, checkpoint, plan, accelerator.device)
    _replay(history, observers)
    last_saved, alone = time.monotonic(), accelerator.num_processes == 1
    task.train()
    for step, micro_batches in _grouped(batches(first_step), first_step, plan.micro_batches):
        rate = plan.learning_rate(step)
        update(task, optimizer, micro_batches, rate, step, meter, accelerator, drop_unfinite=plan.drop_unfinite)
        epoch, step_in_epoch = divmod(step + 1, plan.steps_per_epoch)
        last = step + 1 == plan.steps
        due = last or time.monotonic() - last_saved >= plan.checkpoint_seconds
        # ranks look at the same steps, for they answer one another when a loss is bad; their clocks may differ
        looked = meter.check(step, force=last or step_in_epoch == 0 or (due and alone))
        if isinstance(trainable, KeepsState):
            trainable.after_update()
        if step_in_epoch == 0:
            _close_epoch(epoch, rate, meter, history, plan, accelerator, observers)
            task.train()
        observers.at_step(step + 1)
        if due and looked:
            _check_weights(trainable, step, plan)
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


def update(
    task: nn.Module,
    optimizer: Optimizer,
    micro_batches: list[TrainingBatch],
    rate: float,
    step: int,
    meter: Meter,
    accelerator: Accelerator,
    *,
    drop_unfinite: bool,
) -> None:
    """One step: gradients of the micro-batches, added up, then the optimizer; the losses go into `meter`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    share, found = 1 / len(micro_batches), []
    for number, batch in enumerate(micro_batches):
        last = number == len(micro_batches) - 1
        with nullcontext() if last else accelerator.no_sync(task):  # ranks exchange gradients once an update
            losses = task(batch)
            accelerator.backward(losses["loss"] * share)
        found.append((batch, {name: value.detach() for name, value in losses.items()}))
    dropped = drop_unfinite and not _finite_gradients(task)
    for batch, losses in found:
        meter.add(step, batch, _counted(losses, dropped) if drop_unfinite else losses, share)
    if accelerator.num_processes > 1:
        meter.share(step)
    if not dropped:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _counted(losses: dict[str, Tensor], dropped: bool) -> dict[str, Tensor]:
    """Losses with the curve "dropped"; those of a dropped update count as zero until the epoch is closed."""
    mark = torch.full_like(losses["loss"], float(dropped))
    kept = {name: torch.zeros_like(value) for name, value in losses.items()} if dropped else losses
    return kept | {"dropped": mark}


def _finite_gradients(task: nn.Module) -> bool:
    """Whether all are; the same on every rank, since gradients are summed over ranks."""
    return all(bool(p.grad.isfinite().all()) for p in task.parameters() if p.grad is not None)


def _close_epoch(
    epoch: int,
    rate: float,
    meter: Meter,
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
    if dropped := values.get("dropped"):
        if dropped == 1:
            raise FloatingPointError(f"every update of epoch {epoch} was dropped: no gradient was finite")
        values = {name: value if name == "dropped" else value / (1 - dropped) for name, value in values.items()}
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


def _unfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of those that hold an infinity or NaN; the device is waited for once."""
    finite = [tensor.isfinite().all() for tensor in tensors.values()]
    return (
        [name for name, good in zip(tensors, torch.stack(finite).tolist(), strict=True) if not good] if finite else []
    )


def _check_weights(task: nn.Module, step: int, plan: Plan) -> None:
    if bad := _unfinite(_changing_state(task)):
        largest = plan.learning_rate(min(step, plan.warmup_steps))
        raise FloatingPointError(
            f"weights are not finite after step {step}, epoch {step // plan.steps_per_epoch} ({', '.join(bad[:3])}): "
            f"the largest learning rate so far was {largest:g}, try a lower base_learning_rate"
        )


def _state(task: nn.Module, optimizer: Optimizer, meter: Meter, history: History, step: int) -> State:
    return {
        "step": step,
        "task": _changing_state(task),
        "optimizer": optimizer.state_dict(),
        "sums": dict(meter.sums),
        "history": history,
    }


def _restore(
    task: nn.Module, optimizer: Optimizer, checkpoint: Checkpoint, plan: Plan, device: torch.device
) -> tuple[Meter, History, int]:
    saved = checkpoint.load()
    if saved is None:
        return Meter(device.type), {}, 0
    try:
        state = fitting(saved, _changing_state(task), optimizer, plan.steps, plan.steps_per_epoch)
        if bad := _unfinite(state["task"]):
            raise ValueError(f"{bad[0]} is not finite")
        task.load_state_dict(state["task"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # torch checks an optimizer's state by using it
        raise checkpoint.refused(f"does not fit this run ({' '.join(str(error).split())})") from None
    sums = {name: total.to(device) for name, total in state["sums"].items()}
    return Meter(device.type, sums), state["history"], state["step"]

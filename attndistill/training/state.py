"""The state of a run in its resume checkpoint: one type for writer and reader, held against the run it is read for."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError, with_config
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import TypedDict

from attndistill.core.artifacts import first_problem

History = dict[str, list[list[float]]]  # curve name -> [epoch, value] pairs


@with_config(ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True))
class State(TypedDict):
    """All that a run changes.

    Attributes:
        step: updates done.
        task: trained parameters and buffers.
        optimizer: its state.
        sums: of the epoch's losses so far.
        history: the curves so far.
    """

    step: PositiveInt
    task: dict[str, Tensor]
    optimizer: dict[str, Any]
    sums: dict[str, Tensor]
    history: dict[str, list[Annotated[list[int | float], Field(min_length=2, max_length=2)]]]


_STATE = TypeAdapter(State)


def fitting(saved: Any, own: Mapping[str, Tensor], optimizer: Optimizer, steps: int, steps_per_epoch: int) -> State:
    """What a checkpoint holds, once it is known to fit.

    Args:
        saved: what was read.
        own: what this run changes, as it is now.
        optimizer: over the run's parameters.
        steps: of the whole run.
        steps_per_epoch: of those.

    Raises:
        ValueError: names, shapes, types, steps or curves of another run; says the first.
    """
    try:
        state = _STATE.validate_python(saved)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    if state["step"] > steps:
        raise ValueError(f"step {state['step']} of {steps}")
    if odd := state["task"].keys() ^ own.keys():
        raise ValueError(f"{min(odd)} is {'missing' if min(odd) in own else 'unknown'}")
    for name, tensor in own.items():
        _check_like(name, state["task"][name], tensor)
    for name, total in state["sums"].items():
        if total.ndim:
            raise ValueError(f"the sum {name} has shape {tuple(total.shape)}")
    _check_optimizer(state["optimizer"], optimizer)
    _check_history(state["history"], state["step"] // steps_per_epoch)
    return state


def _check_like(name: str, found: Tensor, wanted: Tensor) -> None:
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        shapes = [f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (found, wanted)]
        raise ValueError(f"{name} is {shapes[0]}, wanted {shapes[1]}")


def _check_optimizer(saved: dict[str, Any], optimizer: Optimizer) -> None:
    """torch counts the parameters of each group; the tensors that belong to one it would take in any shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in saved["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim:
                _check_like(f"{name} of parameter {number}", value, parameters[number])


def _check_history(history: History, epochs: int) -> None:
    for name, points in history.items():
        numbers = [epoch for epoch, _ in points]
        if numbers != sorted(set(numbers)) or not all(isinstance(at, int) and 1 <= at <= epochs for at in numbers):
            raise ValueError(f"the curve {name} has points at epochs {numbers}, and {epochs} were done")
    if epochs and len(history.get("learning_rate", ())) != epochs:
        raise ValueError(f"the curves have not the points of {epochs} epochs")

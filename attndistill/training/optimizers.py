"""Optimizers and the learning-rate schedule (Tables 8 and 9)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from timm.optim import Lars, param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from attndistill.training import OPTIMIZERS


@runtime_checkable
class HasHeads(Protocol):
    """A module whose trained parameters begin with an axis of heads that never meet; head h learns at `rates[h]`."""

    rates: Sequence[float]


@runtime_checkable
class HasGroups(Protocol):
    """A module that says how parameters are grouped: what is decayed, at which share of the rate each learns."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]: ...


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    if isinstance(module, HasGroups):
        return module.parameter_groups(weight_decay)
    return param_groups_weight_decay(module, weight_decay=weight_decay)  # type: ignore[no-any-return]


@OPTIMIZERS.register("adamw")
def adamw(
    module: nn.Module,
    *,
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95,
    weight_decay: Annotated[float, Field(ge=0)] = 0.05,
) -> Optimizer:
    """AdamW; biases, norms and other vectors are not decayed. The learning rate is set by the loop at every step."""
    return AdamW(_groups(module, weight_decay), lr=0.0, betas=(beta1, beta2), fused=True)


@OPTIMIZERS.register("sgd")
def sgd(
    module: nn.Module,
    *,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    weight_decay: Annotated[float, Field(ge=0)] = 0.0,
) -> Optimizer:
    """SGD with momentum; biases, norms and other vectors are not decayed."""
    if isinstance(module, HasHeads):
        return Headwise(module, module.rates, momentum=momentum, weight_decay=weight_decay)
    return SGD(_groups(module, weight_decay), lr=0.0, momentum=momentum)


@OPTIMIZERS.register("lars")
def lars(
    module: nn.Module,
    *,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    weight_decay: Annotated[float, Field(ge=0)] = 0.0,
    trust_coefficient: Annotated[float, Field(gt=0)] = 0.001,
) -> Optimizer:
    """LARS as MAE's linear probe has it (Table 9): a matrix's rate is scaled by |weights| / |gradient|.

    Biases, norms and other vectors are neither scaled nor decayed. timm's optimizer scales nothing at weight decay 0
    unless told to.
    """
    if isinstance(module, HasHeads):
        settings = {"momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient}
        return Headwise(module, module.rates, **settings)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay, "always_adapt": True},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "always_adapt": False},
    ]
    optimizer: Optimizer = Lars(groups, lr=0.0, momentum=momentum, trust_coeff=trust_coefficient)
    return optimizer


class Headwise(Optimizer):
    """SGD with momentum, or LARS, of heads that lie in one tensor: each moves as it would alone, at its own rate.

    Args:
        module: its trained parameters are (heads, classes, width) matrices and (heads, classes) vectors; vectors are
            neither decayed nor scaled.
        rates: of each head, times the learning rate.
        momentum, weight_decay: of every head.
        trust_coefficient: LARS scales a head's matrix by this times |weights| / |gradient|; None: SGD.
    """

    def __init__(
        self,
        module: nn.Module,
        rates: Sequence[float],
        *,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float | None = None,
    ) -> None:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 2], "weight_decay": weight_decay, "trust": trust_coefficient},
            {"params": [p for p in trained if p.ndim <= 2], "weight_decay": 0.0, "trust": None},
        ]
        super().__init__(groups, {"lr": 0.0, "momentum": momentum})
        self._rates = tuple(rates)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; the loop has no closure."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._move(weights, weights.grad, group)

    def _move(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if group["trust"] is not None:
            factor = _trust(weights, gradient, group["trust"], group["weight_decay"])
            gradient = gradient.add(weights, alpha=group["weight_decay"]).mul_(factor)
        elif group["weight_decay"]:
            gradient = gradient.add(weights, alpha=group["weight_decay"])
        state = self.state[weights]
        if "momentum_buffer" in state:
            velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        else:
            velocity = state["momentum_buffer"] = gradient.clone()
        rates = weights.new_tensor(self._rates).view(-1, *[1] * (weights.ndim - 1))
        weights.addcmul_(velocity, rates, value=-group["lr"])


def _trust(weights: Tensor, gradient: Tensor, coefficient: float, weight_decay: float) -> Tensor:
    """LARS's factor of each head, 1 where a norm is 0."""
    weight, slope = (tensor.flatten(1).norm(dim=1).view(-1, 1, 1) for tensor in (weights, gradient))
    ratio: Tensor = coefficient * weight / (slope + weight_decay * weight + 1e-8)
    return ratio.where((weight > 0) & (slope > 0), 1.0)


@dataclass(frozen=True)
class RateCurve:
    """The shape of a run's learning rate where it is not the house's: a warm-up from 0, half a cosine to 0, per step.

    Attributes:
        start: rate at the first step of warm-up.
        lowest: rate at the end of the cosine; may lie above the peak, as published recipes have it.
        per_epoch: the rate changes between epochs alone.
        whole: the cosine is counted from the first step, warm-up included (timm's scheduler).
    """

    start: float = 0.0
    lowest: float = 0.0
    per_epoch: bool = False
    whole: bool = False


PER_STEP, PER_EPOCH = RateCurve(), RateCurve(per_epoch=True)


def learning_rate(
    step: int,
    *,
    peak: float,
    steps: int,
    warmup_steps: int,
    curve: RateCurve = PER_STEP,
) -> float:
    """Linear warm-up, then a half cosine, per iteration.

    Args:
        step: counts from 0; `steps` is one past the last.
        peak: after warm-up.
        steps: of the whole run.
        warmup_steps: of those, spent warming up.
        curve: where both begin and end.
    """
    if step < warmup_steps:
        return curve.start + (peak - curve.start) * step / warmup_steps
    first = 0 if curve.whole else warmup_steps
    share = 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))
    return curve.lowest + (peak - curve.lowest) * share

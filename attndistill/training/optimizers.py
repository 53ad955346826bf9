"""Optimizers and the learning-rate schedule (Tables 8 and 9)."""

import math
from typing import Annotated

from pydantic import Field
from timm.optim import Lars, param_groups_weight_decay
from torch import nn
from torch.optim import AdamW, Optimizer

from attndistill.training import OPTIMIZERS


@OPTIMIZERS.register("adamw")
def adamw(
    module: nn.Module,
    *,
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95,
    weight_decay: Annotated[float, Field(ge=0)] = 0.05,
) -> Optimizer:
    """AdamW; biases, norms and other vectors are not decayed. The learning rate is set by the loop at every step."""
    groups = param_groups_weight_decay(module, weight_decay=weight_decay)
    return AdamW(groups, lr=0.0, betas=(beta1, beta2), fused=True)


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
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay, "always_adapt": True},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "always_adapt": False},
    ]
    optimizer: Optimizer = Lars(groups, lr=0.0, momentum=momentum, trust_coeff=trust_coefficient)
    return optimizer


def peak_learning_rate(base: float, batch_size: int) -> float:
    """The rate after warm-up: it grows with the batch, from the base rate that is named for 256 images."""
    return base * batch_size / 256


def learning_rate(step: int, *, peak: float, steps: int, warmup_steps: int) -> float:
    """Linear warm-up from 0, then a half cosine to 0, per iteration.

    Args:
        step: counts from 0; `steps` is one past the last.
        peak: `peak_learning_rate`.
        steps: of the whole run.
        warmup_steps: of those, spent warming up.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))

"""Optimizers and the learning-rate schedule (Table 8)."""

import math
from typing import Annotated

from pydantic import Field
from timm.optim import param_groups_weight_decay
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


def learning_rate(step: int, *, peak: float, steps: int, warmup_steps: int) -> float:
    """Linear warm-up from 0, then a half cosine to 0, per iteration.

    Args:
        step: counts from 0; `steps` is one past the last.
        peak: base learning rate x batch size / 256.
        steps: of the whole run.
        warmup_steps: of those, spent warming up.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))

"""Attention as the published code computes it where that departs from the formulae (`distill.mode: official_code`).

For measuring what the departures cost, not for use. Probabilities are not kept in log space: the log is taken of them
before the clamp, so a weight that underflowed to zero has gradient NaN; bicubic interpolation overshoots below zero,
and the log of such a weight is NaN. The published loop drops those batches in silence (`training/loop.py`).

B batch, H heads, R rows after aggregation, T teacher tokens, S student tokens (class token and patches).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from attndistill.losses.interpolation import Grid


def published_interpolation(
    log_attention: Float[Tensor, "B H T"], grid: Grid, target_grid: Grid, *, clamped_first: bool
) -> Float[Tensor, "B H S"]:
    """Bicubic interpolation of probabilities as it comes out, rescaled so that patches sum to 1 - A[CLS].

    Args:
        log_attention: log-probabilities over (class token, teacher patches).
        grid: rows and columns of the teacher's patches.
        target_grid: likewise the student's.
        clamped_first: without head aggregation the clamp comes before the log and mends a negative weight; with it the
            log of that weight is NaN.

    Returns:
        Logarithms of the weights, NaN for negative ones. Equal grids: the input itself.
    """
    if grid == target_grid:
        return log_attention
    cls, patches = log_attention.exp().split([1, math.prod(grid)], dim=-1)
    resampled = F.interpolate(patches.unflatten(-1, grid), size=target_grid, mode="bicubic", align_corners=False)
    resampled = resampled.flatten(-2)
    weights = torch.cat([cls, resampled / resampled.sum(dim=-1, keepdim=True) * (1 - cls)], dim=-1)
    return (weights.clamp_min(torch.finfo(weights.dtype).tiny) if clamped_first else weights).log()


def published_aggregation(
    log_attention: Float[Tensor, "B H T"], *, aggregate: Callable[[Tensor], Tensor]
) -> Float[Tensor, "B R T"]:
    """`aggregate` of the logs of probabilities: a zero weighs -inf, and its gradient is NaN."""
    return aggregate(log_attention.exp().log())

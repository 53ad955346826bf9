"""Attention interpolation (AIP, paper sec. 3): the teacher's patch grid to the student's."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# B batch, H heads, T teacher tokens, S student tokens (class token and patches)

Grid = tuple[int, int]


def interpolate_attention(
    log_attention: Float[Tensor, "B H T"], grid: Grid, target_grid: Grid
) -> Float[Tensor, "B H S"]:
    """Resample the patch part of per-head attention, keep its mass and the class token's share.

    Bicubic interpolation (align_corners=False) of a peaked map overshoots below zero; the published code then takes the
    log of a negative number, gets NaN, and drops the batch in silence. Here the result is floored at the smallest
    original weight of its own map, then rescaled so that the patches sum to 1 - A[CLS] again.

    Args:
        log_attention: log-probabilities over (class token, teacher patches), 1 + N.
        grid: rows and columns of the teacher's patches, N of them.
        target_grid: likewise the student's, M of them.

    Returns:
        Log-probabilities over (class token, student patches), 1 + M. Equal grids: the input itself.
    """
    if grid == target_grid:
        return log_attention
    log_cls, log_patches = log_attention[..., :1], log_attention[..., 1:]
    if log_patches.shape[-1] != math.prod(grid):
        raise ValueError(f"{log_patches.shape[-1]} patches do not fill a {grid[0]} x {grid[1]} grid")
    log_mass = torch.logsumexp(log_patches, dim=-1, keepdim=True)
    patches = (log_patches - log_mass).exp()
    resampled = F.interpolate(patches.unflatten(-1, grid), size=target_grid, mode="bicubic", align_corners=False)
    floored = resampled.flatten(-2).maximum(patches.amin(dim=-1, keepdim=True))
    floored = floored.clamp_min(torch.finfo(floored.dtype).tiny)
    log_shares = floored.log() - floored.sum(dim=-1, keepdim=True).log()
    return torch.cat([log_cls, log_mass + log_shares], dim=-1)

"""Embedding losses: guidance that attention guidance is compared with, beside or in place of PA (Table 10 c).

Each is a module (it may carry state) that sees the teacher's features and the student's tokens projected by P to the
teacher's width. `CompRess` keeps a queue of the teacher's embeddings; the training checkpoint carries it.

B batch, E teacher width, Q anchors in the queue, N patches of the teacher, M of the student.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attndistill.core.features import Features
from attndistill.core.randomness import derived_seed
from attndistill.core.ranks import of_all_ranks
from attndistill.losses import EMBEDDING_LOSSES
from attndistill.losses.interpolation import Grid


@dataclass(frozen=True)
class Setting:
    """What a loss is built for: the teacher's width, both patch grids, and the seed of whatever it draws."""

    teacher_dim: int
    teacher_grid: Grid
    student_grid: Grid
    seed: int


class EmbeddingLoss(nn.Module):
    """(teacher's features, student's projected tokens) -> the loss, without its weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, teacher: Features, projected: Features) -> Float[Tensor, ""]:
        raise NotImplementedError

    def after_update(self) -> None:
        """The images since the last call made one update: a loss that keeps state takes them in."""


@EMBEDDING_LOSSES.register("patch_tokens")
class PatchTokenAlignment(EmbeddingLoss):
    """Mean squared error between the student's projected patch tokens and the teacher's (Table 10 c).

    P is shared: what it does to the class token it does to every patch token. Where the patch grids differ, the
    teacher's tokens are interpolated to the student's grid (bicubic, align_corners=False, as AIP).
    """

    def __init__(self, setting: Setting, *, weight: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__(weight)
        self.grids = setting.teacher_grid, setting.student_grid

    def forward(self, teacher: Features, projected: Features) -> Float[Tensor, ""]:
        assert teacher.patch_tokens is not None
        assert projected.patch_tokens is not None
        wanted = interpolate_tokens(teacher.patch_tokens, *self.grids)
        return F.mse_loss(projected.patch_tokens, wanted.to(projected.patch_tokens.dtype))


@EMBEDDING_LOSSES.register("compress")
class CompRess(EmbeddingLoss):
    """CompRess (Koohpayegani et al., NeurIPS 2020), with one queue: KL between softmaxed similarities to anchors.

    Anchors are the teacher's class tokens of the last `queue_size` images before the present update, L2-normalised;
    similarities are cosines over `temperature`, of the teacher's class token and of the student's projected one.
    Random directions stand in until the queue is full. Ranks and micro-batches change nothing: an update's images enter
    together after it, in the order of the batch.

    Args:
        setting: width and seed.
        weight: of the loss in the sum.
        queue_size: Q, anchors; 128,000 in the paper.
        temperature: 0.04 in the paper.
    """

    queue: Tensor
    place: Tensor

    def __init__(
        self,
        setting: Setting,
        *,
        weight: Annotated[float, Field(gt=0)] = 1.0,
        queue_size: Annotated[int, Field(gt=0)] = 128000,
        temperature: Annotated[float, Field(gt=0)] = 0.04,
    ) -> None:
        super().__init__(weight)
        self.temperature = temperature
        generator = torch.Generator().manual_seed(derived_seed(setting.seed, "queue"))
        anchors = torch.randn(queue_size, setting.teacher_dim, generator=generator)
        self.register_buffer("queue", F.normalize(anchors, dim=-1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self._fresh: list[Tensor] = []

    def forward(self, teacher: Features, projected: Features) -> Float[Tensor, ""]:
        kind = self.queue.dtype
        with torch.autocast(self.queue.device.type, enabled=False):  # three digits of a cosine over 0.04 are too few
            wanted = F.normalize(teacher.cls_token.to(kind), dim=-1)
            found = F.normalize(projected.cls_token.to(kind), dim=-1)
            if self.training:
                self._fresh.append(wanted.detach())
            teacher_rows, student_rows = (self._similarities(rows) for rows in (wanted, found))
        return (teacher_rows.exp() * (teacher_rows - student_rows)).sum() / len(wanted)

    def _similarities(self, embeddings: Float[Tensor, "B E"]) -> Float[Tensor, "B Q"]:
        return (embeddings @ self.queue.T / self.temperature).log_softmax(dim=-1)

    def after_update(self) -> None:
        """The images of the update enter the queue, the oldest leave."""
        fresh = of_all_ranks(torch.cat(self._fresh))
        self._fresh.clear()
        size = len(self.queue)
        first = max(0, len(fresh) - size)  # of a batch larger than the queue the last images stay
        places = (self.place + torch.arange(first, len(fresh), device=fresh.device)) % size
        self.queue[places] = fresh[first:]
        self.place.copy_((self.place + len(fresh)) % size)


def interpolate_tokens(tokens: Float[Tensor, "B N E"], grid: Grid, target_grid: Grid) -> Float[Tensor, "B M E"]:
    """Patch tokens of one grid on another (bicubic, align_corners=False). Equal grids: the input itself."""
    if grid == target_grid:
        return tokens
    if tokens.shape[1] != math.prod(grid):
        raise ValueError(f"{tokens.shape[1]} patch tokens do not fill a {grid[0]} x {grid[1]} grid")
    maps = tokens.transpose(1, 2).unflatten(-1, grid)
    resampled = F.interpolate(maps, size=target_grid, mode="bicubic", align_corners=False)
    return resampled.flatten(-2).transpose(1, 2)

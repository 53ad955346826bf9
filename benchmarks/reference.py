"""The published algorithm, done plainly, as what the package's step is compared with (docs/performance.md).

Written from the paper's formulae and the behaviour of its code, not copied: every block of teacher and student forms
its whole attention matrix, the last block runs for all queries, P runs on all tokens, probabilities are not kept in
log space, nothing is cached. Parameters carry timm's names, so both sides start from one state dict.

What a reader would get wrong: bicubic interpolation may overshoot below the smallest weight of a map. The package
floors it there (`losses/interpolation.py`), the published code does not; elsewhere the two are equal up to rounding.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from attndistill.losses.interpolation import Grid

# B batch, H heads, T teacher tokens, S student tokens, N tokens of either (class token and patches), D width

LOWEST, HIGHEST = 1e-5, 0.996


class Attention(nn.Module):
    """Multi-head attention that forms, and returns, its whole matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B H N N"]]:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((attention @ value).transpose(1, 2).reshape(batch, count, width)), attention


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, tokens: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B H N N"]]:
        mixed, attention = self.attn(self.norm1(tokens))
        tokens = tokens + mixed
        return tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens)))), attention


class Vit(nn.Module):
    """A vision transformer: images -> (normed tokens, the last block's attention of the class token)."""

    def __init__(
        self, image_size: int, *, embed_dim: int, depth: int, num_heads: int, patch_size: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        side = image_size // patch_size
        self.grid: Grid = (side, side)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, embed_dim, patch_size, patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, images: Float[Tensor, "B 3 P P"]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B H N"]]:
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens, attention = block(tokens)
        return self.norm(tokens), attention[:, :, 0]


class Projection(nn.Module):
    """P, on all tokens: linear layers of these widths with GELU between, a LayerNorm at the end."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N E"]:
        for number, layer in enumerate(self.layers):
            tokens = layer(F.gelu(tokens) if number else tokens)
        return self.norm(tokens)  # type: ignore[no-any-return]


class PublishedDistillation(nn.Module):
    """Images -> {"loss", "alignment", "attention"}: the teacher runs inside the step.

    Args:
        teacher: frozen here.
        student: trained.
        projection: P, trained.
        temperature: T of the aggregation over heads; None matches heads one to one.
        weight: lambda.
    """

    def __init__(
        self, teacher: Vit, student: Vit, projection: Projection, *, temperature: float | None, weight: float = 0.1
    ) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.student, self.projection = student, projection
        self.temperature, self.weight = temperature, weight

    def forward(self, images: Float[Tensor, "B 3 P P"]) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_tokens, teacher_attention = self.teacher(images)
        student_tokens, student_attention = self.student(images)
        projected = self.projection(student_tokens)
        alignment = F.mse_loss(projected[:, 0], teacher_tokens[:, 0])
        wanted = interpolated(teacher_attention, self.teacher.grid, self.student.grid)
        attention = divergence(self._aggregated(wanted), self._aggregated(student_attention))
        return {"loss": alignment + self.weight * attention, "alignment": alignment, "attention": attention}

    def _aggregated(self, attention: Float[Tensor, "B H N"]) -> Tensor:
        if self.temperature is None:
            return attention
        return (attention.log().sum(dim=1) / self.temperature).softmax(dim=-1)


def interpolated(attention: Float[Tensor, "B H T"], grid: Grid, target: Grid) -> Float[Tensor, "B H S"]:
    """AIP: the patch part on the student's grid, rescaled to the mass it had."""
    if grid == target:
        return attention
    cls, patches = attention.split([1, math.prod(grid)], dim=-1)
    resampled = F.interpolate(patches.unflatten(-1, grid), size=target, mode="bicubic", align_corners=False).flatten(-2)
    return torch.cat([cls, resampled / resampled.sum(dim=-1, keepdim=True) * (1 - cls)], dim=-1)


def divergence(teacher: Tensor, student: Tensor) -> Float[Tensor, ""]:
    """KL(teacher || student), "batchmean", of clamped and renormalised probabilities."""
    teacher, student = _clamped(teacher), _clamped(student)
    return F.kl_div(student.log(), teacher, reduction="batchmean")


def _clamped(attention: Tensor) -> Tensor:
    clamped = attention.clamp(LOWEST, HIGHEST)
    return clamped / clamped.sum(dim=-1, keepdim=True)


def published_from(
    teacher: Any, student: Any, sizes: Mapping[str, Mapping[str, Any]], *, image_size: int, temperature: float | None
) -> PublishedDistillation:
    """The published algorithm with copies of the product's weights.

    Args:
        teacher: a timm ViT.
        student: a `models.projector.Student`.
        sizes: keyword arguments of `build_vit` under "teacher" and "student".
        image_size: side of the views, pixels.
        temperature: T, or None.
    """
    plain = {role: {key: value for key, value in given.items() if key != "position"} for role, given in sizes.items()}
    linears = student.projector.layers
    projection = Projection([linears[0].in_features, *(linear.out_features for linear in linears)])
    reference = PublishedDistillation(
        Vit(image_size, **plain["teacher"]), Vit(image_size, **plain["student"]), projection, temperature=temperature
    )
    reference.to(next(student.parameters()).dtype)
    reference.teacher.load_state_dict(teacher.state_dict())
    reference.student.load_state_dict(student.backbone.state_dict())
    reference.projection.load_state_dict(student.projector.state_dict())
    return reference

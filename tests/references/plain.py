"""Plain float64 references: full forward passes, probabilities, the published formulae step by step.

Nothing of the package's arithmetic is used here: no timm forward, no log space, no torch interpolation, no readout.
"""

import math

import torch
from torch import Tensor

from attndistill.models.vit import build_vit

SIDE, TEMPERATURE = 24, 3.0
Weights = dict[str, Tensor]


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def block(x: Tensor, weights: Weights, name: str, heads: int) -> tuple[Tensor, Tensor]:
    """The tokens after a pre-norm transformer block, and its attention probabilities (B, H, T, T)."""
    batch, tokens, width = x.shape
    qkv = linear(layer_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv")
    q, k, v = (part.reshape(batch, tokens, heads, -1).transpose(1, 2) for part in qkv.split(width, dim=-1))
    scores = q @ k.transpose(2, 3) / math.sqrt(width / heads)
    attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
    x = x + linear((attention @ v).transpose(1, 2).reshape(batch, tokens, width), weights, f"{name}.attn.proj")
    hidden = gelu(linear(layer_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
    return x + linear(hidden, weights, f"{name}.mlp.fc2"), attention


def value_lengths(x: Tensor, weights: Weights, name: str, heads: int) -> Tensor:
    """The lengths of a block's value vectors (B, H, T), from the tokens before it."""
    value = linear(layer_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv").split(x.shape[-1], dim=-1)[2]
    return value.unflatten(-1, (heads, -1)).square().sum(-1).sqrt().transpose(1, 2)


def patchify(images: Tensor, side: int) -> Tensor:
    """(B, 3, S, S) -> (B, N, side, side, 3), row by row."""
    starts = range(0, images.shape[-1], side)
    cut = [images[:, :, y : y + side, x : x + side] for y in starts for x in starts]
    return torch.stack(cut, dim=1).permute(0, 1, 3, 4, 2)


def patch_tokens(weights: Weights, images: Tensor) -> Tensor:
    kernel = weights["patch_embed.proj.weight"]
    patches = patchify(images, kernel.shape[-1])
    return torch.einsum("bnyxc,dcyx->bnd", patches, kernel) + weights["patch_embed.proj.bias"]


def embed(weights: Weights, images: Tensor) -> Tensor:
    """Class token and patches with positions: what enters the first block."""
    x = torch.cat([weights["cls_token"].expand(len(images), 1, -1), patch_tokens(weights, images)], dim=1)
    return x + weights["pos_embed"]


def vit(weights: Weights, images: Tensor, heads: int, depth: int) -> tuple[Tensor, list[Tensor]]:
    """The normed tokens, and every block's class-token attention (B, H, T), by a full forward pass."""
    x, attentions = embed(weights, images), []
    for number in range(depth):
        x, attention = block(x, weights, f"blocks.{number}", heads)
        attentions.append(attention[:, :, 0])
    return layer_norm(x, weights, "norm"), attentions


def project(weights: Weights, cls_token: Tensor, depth: int) -> Tensor:
    """P: any leading dimensions."""
    for number in range(depth):
        cls_token = linear(gelu(cls_token) if number else cls_token, weights, f"layers.{number}")
    return layer_norm(cls_token, weights, "norm")


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def bicubic(size: int, target: int) -> Tensor:
    """The (target, size) matrix of one axis: align_corners=False, edges repeated."""
    matrix = torch.zeros(target, size, dtype=torch.float64)
    for row in range(target):
        at = (row + 0.5) * size / target - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[row, min(max(tap, 0), size - 1)] += cubic(at - tap)
    return matrix


def interpolate(attention: Tensor, size: int, target: int) -> Tensor:
    """AIP; patches are floored at the smallest of their own map (where bicubic undershoots, ours departs)."""
    if size == target:
        return attention
    cls, patches = attention[..., :1], attention[..., 1:].unflatten(-1, (size, size))
    axis = bicubic(size, target)
    resampled = torch.maximum((axis @ patches @ axis.T).flatten(-2), patches.flatten(-2).amin(-1, keepdim=True))
    return torch.cat([cls, resampled / resampled.sum(-1, keepdim=True) * (1 - cls)], dim=-1)


def aggregate(attention: Tensor, how: str) -> Tensor:
    heads = attention.shape[1]
    combined = {
        "geometric_mean": lambda: attention.prod(1, keepdim=True),
        "max": lambda: attention.max(1, keepdim=True).values ** heads,
        "min": lambda: attention.min(1, keepdim=True).values ** heads,
        "mean": lambda: attention.mean(1, keepdim=True) ** heads,
    }
    if how == "none":
        return attention
    powered = combined[how]() ** (1 / TEMPERATURE)  # softmax(log x / T) is x^(1/T), normalised
    return powered / powered.sum(-1, keepdim=True)


def clamp(attention: Tensor) -> Tensor:
    clamped = attention.clamp(1e-5, 0.996)
    return clamped / clamped.sum(-1, keepdim=True)


def compare(teacher: Tensor, student: Tensor, how: str) -> Tensor:
    teacher, student = clamp(teacher), clamp(student)
    compared = {
        "kl": lambda: teacher * (teacher / student).log(),
        "mse": lambda: (teacher - student) ** 2,
    }
    return compared[how]().sum() / len(teacher)


def lively(module: torch.nn.Module, seed: int, spread: float = 0.25) -> torch.nn.Module:
    """float64, with weights large enough for attention that is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def make_vit(seed: int, width: int, depth: int, heads: int, patch: int) -> torch.nn.Module:
    sizes = {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch, "mlp_ratio": 2.0}
    return lively(build_vit(SIDE, seed, **sizes, position="learnable"), seed)

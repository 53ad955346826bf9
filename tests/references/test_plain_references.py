"""The tasks against plain float64 references: full forward passes, probabilities, the published formulae step by step.

Nothing of the package's arithmetic is used here: no timm forward, no log space, no torch interpolation, no readout.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from attndistill.data.loading import Batch
from attndistill.losses import AGGREGATIONS, GUIDANCE
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.projector import Projector, Student
from attndistill.models.vit import build_vit
from attndistill.targets import LiveTeacher
from attndistill.tasks.distillation import Distillation, Objective

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


def patchify(images: Tensor, side: int) -> Tensor:
    """(B, 3, S, S) -> (B, N, side, side, 3), row by row."""
    starts = range(0, images.shape[-1], side)
    cut = [images[:, :, y : y + side, x : x + side] for y in starts for x in starts]
    return torch.stack(cut, dim=1).permute(0, 1, 3, 4, 2)


def patch_tokens(weights: Weights, images: Tensor) -> Tensor:
    kernel = weights["patch_embed.proj.weight"]
    patches = patchify(images, kernel.shape[-1])
    return torch.einsum("bnyxc,dcyx->bnd", patches, kernel) + weights["patch_embed.proj.bias"]


def vit(weights: Weights, images: Tensor, heads: int, depth: int) -> tuple[Tensor, Tensor]:
    """The normed class token and the last block's class-token attention, by a full forward pass."""
    x = torch.cat([weights["cls_token"].expand(len(images), 1, -1), patch_tokens(weights, images)], dim=1)
    x = x + weights["pos_embed"]
    for number in range(depth):
        x, attention = block(x, weights, f"blocks.{number}", heads)
    return layer_norm(x, weights, "norm")[:, 0], attention[:, :, 0]


def project(weights: Weights, cls_token: Tensor, depth: int) -> Tensor:
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
    each = teacher * (teacher / student).log() if how == "kl" else (teacher - student) ** 2
    return each.sum() / len(teacher)


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


def case(aggregation: str, loss: str, patch: int, depth: int, weight: float) -> tuple[float, dict, float, dict]:
    """(value, gradients) of the package's task and of the reference."""
    heads = 4 if aggregation == "none" else 2
    teacher, backbone = make_vit(1, 24, 2, 4, 4), make_vit(2, 16, 2, heads, patch)
    student = Student(backbone, lively(Projector(16, 24, depth, seed=3), 3))
    options = {} if aggregation == "none" else {"temperature": TEMPERATURE}
    grids = {"teacher_grid": (6, 6), "student_grid": (SIDE // patch, SIDE // patch)}
    objective = Objective(0.7, weight, AGGREGATIONS.bind(aggregation, options), GUIDANCE.bind(loss, {}), **grids)
    images = torch.randn(3, 3, SIDE, SIDE, dtype=torch.float64)
    batch = Batch(images, torch.zeros(3, dtype=torch.int64), np.arange(3), 0)
    ours = Distillation(student, LiveTeacher(teacher, torch.device("cpu")), objective)(batch)["loss"]

    cls_t, attention_t = vit(dict(teacher.named_parameters()), images, heads=4, depth=2)
    cls_s, attention_s = vit(dict(backbone.named_parameters()), images, heads, depth=2)
    projected = project(dict(student.projector.named_parameters()), cls_s, depth)
    plain = 0.7 * ((projected - cls_t) ** 2).sum() / projected.numel()
    attention_t = interpolate(attention_t, 6, SIDE // patch)
    guidance = compare(aggregate(attention_t, aggregation), aggregate(attention_s, aggregation), loss)
    assert guidance > 1e-3  # attention far from uniform, or nothing would be tested
    plain = plain + weight * guidance
    names, parameters = zip(*student.named_parameters(), strict=True)
    gradients = [dict(zip(names, torch.autograd.grad(value, parameters), strict=True)) for value in (ours, plain)]
    return ours.item(), gradients[0], plain.item(), gradients[1]


SWITCHES = list(itertools.product(["geometric_mean", "max", "min", "mean", "none"], ["kl", "mse"], [4, 6, 8]))
DEPTHS = list(itertools.product([1, 2, 3, 4, 8], [0.0, 0.1]))


@pytest.mark.parametrize(
    ("aggregation", "loss", "patch", "depth", "weight"),
    [(*switches, 4, 0.3) for switches in SWITCHES]
    + [("geometric_mean", "kl", 8, depth, weight) for depth, weight in DEPTHS],
)
def test_distillation_agrees_with_the_formulae_in_value_and_every_gradient(aggregation, loss, patch, depth, weight):
    value, gradients, expected, expected_gradients = case(aggregation, loss, patch, depth, weight)
    assert value == pytest.approx(expected, rel=1e-10, abs=1e-10)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-10, atol=1e-10, msg=name)


def masked_autoencoding(weights: Weights, images: Tensor, order: Tensor, visible: int, normalize: bool) -> Tensor:
    """He et al.: encode what is visible, decode everything, compare what was hidden."""
    encoder = {name.removeprefix("encoder."): tensor for name, tensor in weights.items() if name.startswith("encoder.")}
    positions = encoder["pos_embed"][0]
    tokens = patch_tokens(encoder, images) + positions[1:]
    shown = torch.stack([tokens[i, order[i, :visible]] for i in range(len(images))])
    x = torch.cat([(encoder["cls_token"][0] + positions[:1]).expand(len(images), 1, -1), shown], dim=1)
    for number in range(2):
        x, _ = block(x, encoder, f"blocks.{number}", 2)
    x = linear(layer_norm(x, encoder, "norm"), weights, "to_decoder")
    errors = []
    for i in range(len(images)):
        full = weights["mask_token"][0].repeat(order.shape[1], 1)
        full = full.index_put((order[i, :visible],), x[i, 1:])
        y = torch.cat([x[i, :1], full])[None] + weights["pos_embed"]
        y, _ = block(y, weights, "blocks.0", 2)
        predicted = linear(layer_norm(y, weights, "norm"), weights, "to_pixels")[0, 1:]
        for hidden in order[i, visible:]:
            wanted = patchify(images[i : i + 1], 4)[0, hidden].flatten()
            if normalize:
                wanted = (wanted - wanted.mean()) / (wanted.var(correction=1) + 1e-6).sqrt()
            errors.append(((predicted[hidden] - wanted) ** 2).mean())
    return torch.stack(errors).mean()


@pytest.mark.parametrize("normalize", [True, False])
def test_masked_autoencoding_agrees_with_he_et_al_in_value_and_every_gradient(normalize):
    model = MaskedAutoencoder(
        make_vit(4, 16, 2, 2, 4), 5, embed_dim=8, depth=1, num_heads=2, normalize_pixels=normalize
    )
    lively(model, 6)
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    order = torch.stack([torch.randperm(36) for _ in range(2)])
    weights = dict(model.named_parameters())
    values = [model(images, order, 9), masked_autoencoding(weights, images, order, 9, normalize)]
    trained = {name: parameter for name, parameter in weights.items() if parameter.requires_grad}
    ours, plain = (torch.autograd.grad(value, list(trained.values())) for value in values)
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    for name, mine, theirs in zip(trained, ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10, msg=name)

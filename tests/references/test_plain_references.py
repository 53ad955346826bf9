"""The tasks against the plain float64 references of `plain.py`, in value and every gradient."""

import itertools

import numpy as np
import pytest
import torch
from plain import (
    SIDE,
    TEMPERATURE,
    Weights,
    aggregate,
    block,
    compare,
    interpolate,
    layer_norm,
    linear,
    lively,
    make_vit,
    patch_tokens,
    patchify,
    project,
    vit,
)
from torch import Tensor

from attndistill.data.loading import Batch
from attndistill.losses import AGGREGATIONS, GUIDANCE, SIGNALS
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.projector import Projector, Student
from attndistill.targets import LiveTeacher
from attndistill.tasks.distillation import Distillation, Objective


def case(aggregation: str, loss: str, patch: int, depth: int, weight: float) -> tuple[float, dict, float, dict]:
    """(value, gradients) of the package's task and of the reference."""
    heads = 4 if aggregation == "none" else 2
    teacher, backbone = make_vit(1, 24, 2, 4, 4), make_vit(2, 16, 2, heads, patch)
    student = Student(backbone, lively(Projector(16, 24, depth, seed=3), 3))
    options = {} if aggregation == "none" else {"temperature": TEMPERATURE}
    grids = {"teacher_grid": (6, 6), "student_grid": (SIDE // patch, SIDE // patch)}
    aggregation_of_heads, comparison = AGGREGATIONS.bind(aggregation, options), GUIDANCE.bind(loss, {})
    objective = Objective(0.7, weight, SIGNALS["attention"], aggregation_of_heads, comparison, **grids)
    images = torch.randn(3, 3, SIDE, SIDE, dtype=torch.float64)
    batch = Batch(images, torch.zeros(3, dtype=torch.int64), np.arange(3), 0)
    ours = Distillation(student, LiveTeacher(teacher, torch.device("cpu")), objective)(batch)["loss"]

    tokens_t, attention_t = vit(dict(teacher.named_parameters()), images, heads=4, depth=2)
    tokens_s, attention_s = vit(dict(backbone.named_parameters()), images, heads, depth=2)
    cls_t, attention_t, cls_s, attention_s = tokens_t[:, 0], attention_t[-1], tokens_s[:, 0], attention_s[-1]
    projected = project(dict(student.projector.named_parameters()), cls_s, depth)
    plain = 0.7 * ((projected - cls_t) ** 2).sum() / projected.numel()
    attention_t = interpolate(attention_t, 6, SIDE // patch)
    guidance = compare(aggregate(attention_t, aggregation), aggregate(attention_s, aggregation), loss)
    assert guidance > 1e-3  # attention far from uniform, or nothing would be tested
    plain = plain + weight * guidance
    names, parameters = zip(*student.named_parameters(), strict=True)
    gradients = [dict(zip(names, torch.autograd.grad(value, parameters), strict=True)) for value in (ours, plain)]
    return ours.item(), gradients[0], plain.item(), gradients[1]


SWITCHES = list(itertools.product(AGGREGATIONS.names(), GUIDANCE.names(), [4, 6, 8]))  # a new one has no formula yet
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


def masked_autoencoding(
    weights: Weights, images: Tensor, order: Tensor, visible: int, normalize: bool, sees: str
) -> Tensor:
    """He et al.: encode what is visible, decode everything, compare what was hidden; or all, from the class token."""
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
        painted = order[i, visible:]
        if sees == "class_token":  # what the encoder says of the visible patches is not there at all
            y = torch.cat([x[i, :1], weights["mask_token"][0].repeat(len(full), 1)])[None] + weights["pos_embed"]
            painted = order[i]
        y, _ = block(y, weights, "blocks.0", 2)
        predicted = linear(layer_norm(y, weights, "norm"), weights, "to_pixels")[0, 1:]
        for place in painted.tolist():
            wanted = patchify(images[i : i + 1], 4)[0, place].flatten()
            if normalize:
                wanted = (wanted - wanted.mean()) / (wanted.var(correction=1) + 1e-6).sqrt()
            errors.append(((predicted[place] - wanted) ** 2).mean())
    return torch.stack(errors).mean()


@pytest.mark.parametrize("sees", ["tokens", "class_token"])
@pytest.mark.parametrize("normalize", [True, False])
def test_masked_autoencoding_agrees_with_he_et_al_in_value_and_every_gradient(normalize, sees):
    model = MaskedAutoencoder(
        make_vit(4, 16, 2, 2, 4), 5, embed_dim=8, depth=1, num_heads=2, normalize_pixels=normalize, sees=sees
    )
    lively(model, 6)
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    order = torch.stack([torch.randperm(36) for _ in range(2)])
    weights = dict(model.named_parameters())
    values = [model(images, order, 9), masked_autoencoding(weights, images, order, 9, normalize, sees)]
    trained = {name: parameter for name, parameter in weights.items() if parameter.requires_grad}
    ours, plain = (torch.autograd.grad(value, list(trained.values())) for value in values)
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    for name, mine, theirs in zip(trained, ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10, msg=name)

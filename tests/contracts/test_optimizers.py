"""What holds for every optimizer, whatever is registered."""

import pytest
import torch
from torch import nn

from attndistill.models.vit import build_vit
from attndistill.training import OPTIMIZERS

TINY = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "learnable"}


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_an_optimizer_fits_a_line(name):
    torch.manual_seed(0)
    line, inputs = nn.Linear(3, 1), torch.randn(64, 3)
    wanted = inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3
    optimizer = OPTIMIZERS[name](line)
    for group in optimizer.param_groups:
        group["lr"] = {"lars": 1.0}.get(name, 0.05)  # LARS scales a matrix's rate down to a thousandth of its norm
    losses = []
    for _ in range(1000):
        optimizer.zero_grad()
        losses.append((line(inputs) - wanted).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_an_optimizer_decays_matrices_and_neither_biases_nor_norms(name):
    vit = build_vit(16, 0, **TINY)
    optimizer = OPTIMIZERS[name](vit, weight_decay=0.5)
    names = {id(parameter): key for key, parameter in vit.named_parameters()}
    before = {key: parameter.detach().clone() for key, parameter in vit.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.1
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {key for key, parameter in vit.named_parameters() if torch.equal(parameter, before[key])}
    assert {key for key in names.values() if key.endswith(".bias") or "norm" in key} <= kept
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight"}.isdisjoint(kept)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_an_optimizer_leaves_frozen_parameters_out(name):
    vit = build_vit(16, 0, **TINY | {"position": "sincos"})
    groups = OPTIMIZERS[name](vit).param_groups
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert id(vit.pos_embed) not in held
    assert len(held) == sum(parameter.requires_grad for parameter in vit.parameters())

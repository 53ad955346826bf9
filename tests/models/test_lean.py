"""A block that computes cheap things twice has the outputs and the gradients of the plain one, and keeps less."""

import copy

import pytest
import torch
from timm.layers import SwiGLU
from torch import nn

from attndistill.models.lean import is_lean, lean_block
from attndistill.models.vit import build_vit

VIT = {"embed_dim": 24, "depth": 1, "num_heads": 3, "patch_size": 4, "mlp_ratio": 4.0, "position": "sincos"}


def block_and_tokens(dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor]:
    block = build_vit(16, 0, **VIT).blocks[0].to(dtype)
    draws = torch.Generator().manual_seed(3)
    for parameter in block.parameters():  # norms and biases away from one and zero
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draws, dtype=dtype)
    return block, torch.randn(2, 17, 24, generator=draws, dtype=dtype).requires_grad_()


def gradients(run, block: nn.Module, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    block, tokens = copy.deepcopy(block), tokens.detach().clone().requires_grad_()
    found = run(block, tokens)
    found.float().square().sum().backward()
    return {"output": found.detach(), "tokens": tokens.grad, **{n: p.grad for n, p in block.named_parameters()}}


def plain(block: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return block(tokens)


def test_outputs_and_gradients_are_the_plain_blocks():
    block, tokens = block_and_tokens(torch.float64)
    expected = gradients(plain, block, tokens)
    for name, value in gradients(lean_block, block, tokens).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-11, atol=1e-11, msg=name)


def test_under_autocast_they_are_as_near_as_bf16_is():
    block, tokens = block_and_tokens(torch.float32)
    expected = gradients(plain, block, tokens)

    def mixed(block, tokens):
        with torch.autocast("cpu", torch.bfloat16):
            return lean_block(block, tokens)

    for name, value in gradients(mixed, block, tokens).items():
        assert value.dtype == expected[name].dtype
        assert (value - expected[name]).norm() < 0.03 * expected[name].norm(), name


def test_a_quarter_less_and_more_is_kept_for_the_backward_pass():
    block, tokens = block_and_tokens(torch.float32)
    own = {parameter.data_ptr() for parameter in block.parameters()}

    def kept(run) -> int:
        seen = {}

        def pack(tensor):
            if tensor.untyped_storage().data_ptr() not in own:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(block, tokens)
        return sum(seen.values())

    assert kept(lean_block) < 0.7 * kept(plain)


def gated(block):
    block.mlp = SwiGLU(24, 48)


def dropping(block):
    block.mlp.drop1 = nn.Dropout(0.1)


def relu(block):
    block.mlp.act = nn.ReLU()


@pytest.mark.parametrize("change", [gated, dropping, relu])
def test_a_block_with_other_parts_is_left_to_timm(change):
    block, _ = block_and_tokens(torch.float32)
    assert is_lean(block)
    change(block)
    assert not is_lean(block)

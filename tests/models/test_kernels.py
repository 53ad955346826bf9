"""Kernels are another way of the same arithmetic, chosen by what was measured."""

import copy

import pytest
import torch
from torch import nn

from attndistill.models import kernels
from attndistill.models.kernels import FrozenLinear, fused_attention_pays, images_at_once, use_frozen_kernels
from attndistill.models.readout import read_features
from attndistill.models.vit import build_vit

VIT = {"embed_dim": 32, "depth": 3, "num_heads": 4, "patch_size": 4, "mlp_ratio": 4.0, "position": "sincos"}


def images(size: int = 16) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gelu", [None, "none", "tanh"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_a_frozen_layer_is_the_plain_one(gelu, dtype, close):
    torch.manual_seed(0)
    linear, tokens = nn.Linear(24, 40), torch.randn(2, 5, 24)
    expected = linear(tokens) if gelu is None else nn.functional.gelu(linear(tokens), approximate=gelu)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = FrozenLinear(linear, gelu)(tokens)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected.detach(), rtol=close, atol=close)


def test_a_teacher_with_frozen_kernels_answers_as_before():
    teacher = build_vit(16, 0, **VIT).eval()
    names = set(teacher.state_dict())
    with torch.no_grad():
        before = read_features(teacher, images())
        use_frozen_kernels(teacher)
        after = read_features(teacher, images())
    assert sum(isinstance(layer, FrozenLinear) for layer in teacher.modules()) == 8
    assert set(teacher.state_dict()) == names
    torch.testing.assert_close(after.cls_token, before.cls_token, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.log_attention, before.log_attention, rtol=1e-5, atol=1e-5)


def test_weights_that_change_are_laid_out_again_and_copies_have_their_own():
    layer = FrozenLinear(nn.Linear(8, 8, bias=False))
    tokens = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = layer(tokens)
        twin = copy.deepcopy(layer)
        doubled = layer.double().float()
        doubled.weight.mul_(2)
        layer._apply(lambda tensor: tensor)
        torch.testing.assert_close(layer(tokens), 2 * first)
        torch.testing.assert_close(twin(tokens), first)


@pytest.mark.parametrize(
    ("size", "patch", "width", "on_cpu"),
    [(224, 16, 384, 32), (224, 8, 384, 8), (224, 16, 768, 16), (224, 16, 192, 64), (32, 4, 64, 256), (24, 4, 96, 256)],
)
def test_how_many_images_are_read_at_once_follows_from_sizes_alone(size, patch, width, on_cpu):
    """The embedded default, Fashion-MNIST and Table 10 in miniature read 256 as they always did."""
    sizes = {"embed_dim": width, "depth": 1, "num_heads": 2, "patch_size": patch, "mlp_ratio": 4.0}
    with torch.device("meta"):
        vit = build_vit(size, 0, **sizes, position="learnable")
    assert images_at_once(vit, torch.device("cpu"), 256) == on_cpu
    assert images_at_once(vit, torch.device("cpu"), 5) == 5
    assert images_at_once(vit, torch.device("cuda"), 256) == 256


@pytest.mark.parametrize("amx", [True, False])
def test_attention_in_bf16_forms_its_matrix_where_that_is_the_faster_way(amx, monkeypatch):
    """In training below some length; of a frozen model below another, where the processor has no tiles of bf16."""
    monkeypatch.setattr(kernels, "_has_amx", lambda: amx)
    short, long = torch.zeros(1, 65, 8), torch.zeros(1, kernels._FUSED_BF16_BACKWARD_FROM, 8)
    assert fused_attention_pays(short)
    with torch.autocast("cpu", torch.bfloat16):
        assert not fused_attention_pays(short)
        assert fused_attention_pays(long)
        with torch.no_grad():
            assert fused_attention_pays(short) is fused_attention_pays(long) is amx
            assert fused_attention_pays(torch.zeros(1, kernels._FUSED_BF16_FROM, 8))


def test_both_attention_kernels_give_a_student_the_same_gradients(monkeypatch):
    gradients = []
    for fused in (True, False):
        monkeypatch.setattr("attndistill.models.families.fused_attention_pays", lambda tokens, fused=fused: fused)
        student = build_vit(16, 0, **VIT).double()
        read_features(student, images().double()).cls_token.square().sum().backward()
        gradients.append({name: value.grad for name, value in student.named_parameters() if value.grad is not None})
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-9, atol=1e-12)

"""Students: sizes of Table 7, weights as a function of the seed, positions, and every depth of the projector."""

import numpy as np
import pytest
import torch

from attndistill.models.projector import Projector
from attndistill.models.sizes import PRESETS, describe
from attndistill.models.sizes import count_parameters as sizes_count
from attndistill.models.vit import build_vit, count_parameters

TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0}


@pytest.mark.parametrize(
    ("preset", "patch", "millions", "tokens"),
    [
        pytest.param("vit_tiny", 16, 5.5, 197, id="ViT-T/16: 5.7 M with ImageNet's head of 0.2 M"),
        pytest.param("vit_tiny_6_heads", 16, 5.5, 197, id="ViT-T/16 of 6 heads"),
        pytest.param("vit_tiny_8_layers", 16, 3.7, 197, id="ViT-T/16 of 8 layers: 3.7 M; the paper says 3.8 M"),
        pytest.param("vit_small", 16, 21.7, 197, id="ViT-S/16"),
        pytest.param("vit_small", 8, 21.7, 785, id="ViT-S/8"),
        pytest.param("vit_tiny", 32, 5.9, 50, id="patch 32: 7 x 7 + 1 = 50 tokens; the paper's 65 is an error"),
        pytest.param("vit_tiny_8_layers", 28, 4.0, 65, id="patch 28: 8 x 8 + 1 = 65 tokens"),
        pytest.param("vit_tiny", 14, 5.5, 257, id="patch 14"),
        pytest.param("vit_base", 16, 85.8, 197, id="ViT-B/16"),
    ],
)
@pytest.mark.parametrize("position", ["learnable", "sincos"])
def test_sizes_are_those_of_table_7_and_are_counted_without_building(preset, patch, millions, tokens, position):
    sizes = {**PRESETS[preset], "patch_size": patch, "position": position}
    with torch.device("meta"):
        vit = build_vit(224, 0, **{**sizes, "position": "learnable"})
    assert count_parameters(vit) == sizes_count(224, **sizes)
    assert count_parameters(vit) / 1e6 == pytest.approx(millions, abs=0.06)
    assert vit.pos_embed.shape == (1, tokens, sizes["embed_dim"])
    assert f"{tokens} tokens" in describe(224, sizes)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (build_vit(16, seed, **TINY, position="learnable").state_dict() for seed in (3, 3, 4))
    Projector(16, 24, 2, seed=3)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
    assert not torch.equal(first["pos_embed"], other["pos_embed"])


def test_sincos_positions_are_the_published_ones_and_are_not_trained():
    """Up to the order of channels: sines and cosines of row and column at D/4 frequencies, zero for the class token."""
    vit = build_vit(16, 0, **TINY, position="sincos")
    assert not vit.pos_embed.requires_grad
    assert vit.pos_embed[0, 0].count_nonzero() == 0
    frequencies = 10000 ** -(np.arange(4) / 4)
    for patch in range(16):
        angles = np.concatenate([place * frequencies for place in divmod(patch, 4)])
        wanted = np.sort(np.concatenate([np.sin(angles), np.cos(angles)]))
        np.testing.assert_allclose(np.sort(vit.pos_embed[0, 1 + patch].numpy()), wanted, atol=1e-6)


def test_two_patches_never_share_a_sincos_position():
    positions = build_vit(16, 0, **TINY, position="sincos").pos_embed[0]
    assert len(torch.unique(positions, dim=0)) == 17


@pytest.mark.parametrize(
    ("depth", "widths"),
    [
        (1, [(16, 24)]),
        (2, [(16, 32), (32, 24)]),
        (3, [(16, 32), (32, 16), (16, 24)]),
        (4, [(16, 32), (32, 16), (16, 32), (32, 24)]),
        (8, [(16, 32), (32, 16)] * 3 + [(16, 32), (32, 24)]),
    ],
)
def test_projector_widths_alternate_and_end_at_the_teacher_s_for_every_depth(depth, widths):
    """The published code reaches the teacher's width for 4 layers only."""
    projector = Projector(16, 24, depth, seed=0)
    assert [(layer.in_features, layer.out_features) for layer in projector.layers] == widths
    assert projector(torch.randn(2, 16)).shape == (2, 24)


def test_features_inside_the_projector_are_numbered_from_before_it_to_its_normed_end():
    projector, token = Projector(16, 24, 3, seed=0), torch.randn(2, 16)
    assert projector.after(token, 0) is token
    hidden = torch.nn.functional.gelu(projector.layers[0](token))
    torch.testing.assert_close(projector.after(token, 1), hidden)
    torch.testing.assert_close(projector.after(token, 3), projector(token))
    torch.testing.assert_close(projector(token).mean(-1), torch.zeros(2), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="projector layer 4; this projector has layers 0 to 3"):
        projector.after(token, 4)


def test_a_projector_without_layers_is_refused():
    with pytest.raises(ValueError, match="projector depth 0; allowed: 1 or more"):
        Projector(16, 24, 0, seed=0)

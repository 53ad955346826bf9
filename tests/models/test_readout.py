"""The class-token-only last block against timm's full forward pass, for every kind of block it accepts."""

import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

from attndistill.models.readout import check_readable, read_features

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2, "num_classes": 0}
KINDS = {
    "plain": {},
    "without qkv bias": {"qkv_bias": False},
    "query and key norms": {"qk_norm": True},
    "query and key norms without bias": {"qk_norm": True, "qkv_bias": False},
    "LayerScale": {"init_values": 0.3},
    "attention output norm": {"scale_attn_norm": True},
    "registers": {"reg_tokens": 3},
    "registers beside positions of patches alone": {"reg_tokens": 2, "no_embed_class": True},
    "norm before the blocks": {"pre_norm": True},
    "gated MLP": {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "init_values": 0.3},
}
DINOV3 = {
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
    "rope_type": "dinov3",
    "rope_rotate_half": True,
    "dynamic_img_size": True,
    "init_values": 0.3,
    "num_reg_tokens": 2,
    "use_fc_norm": False,
}
ROTARY = {
    "DINOv3": {**DINOV3, "qkv_bias": False},
    "DINOv3 with biases": DINOV3,
    "rotary with query and key norms": {**DINOV3, "qk_norm": True},
    "rotary with three projections": {**DINOV3, "qkv_fused": False, "init_values": None},
    "rotary beside absolute positions": {**DINOV3, "use_abs_pos_emb": True, "rope_type": "cat", "num_reg_tokens": 0},
    "rotary beside absolute positions of patches alone": {**DINOV3, "use_abs_pos_emb": True, "no_embed_class": True},
    "rotary with norms inside attention and a gated MLP": {
        **DINOV3,
        "scale_attn_inner": True,
        "swiglu_mlp": True,
        "scale_mlp": True,
        "qkv_fused": False,
    },
    "rotary with a packed gated MLP and a norm before the blocks": {
        **DINOV3,
        "swiglu_mlp": True,
        "use_pre_transformer_norm": True,
    },
}


def lively(**kind: object) -> nn.Module:
    """A float64 model whose norms, biases and scales are all in use and whose attention is far from uniform."""
    torch.manual_seed(1)
    family = Eva if "use_rot_pos_emb" in kind else VisionTransformer
    vit = family(**SIZES, **kind).double().eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return vit


def plainly(vit: nn.Module, images: Tensor, layer: int = -1) -> tuple[Tensor, Tensor]:
    """timm's normed tokens; the class token's attention over (class, patches), from timm's own softmax."""
    seen: list[Tensor] = []
    attn = vit.blocks[layer].attn
    attn.fused_attn = False  # only then timm forms the whole matrix of attention
    hook = attn.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = vit.forward_features(images)
    hook.remove()
    row = seen[0][:, :, 0]
    kept = torch.cat([row[..., :1], row[..., vit.num_prefix_tokens :]], dim=-1)
    return tokens, kept / kept.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("kind", [*KINDS, *ROTARY])
def test_class_token_attention_and_gradients_equal_the_full_forward_pass(kind):
    vit = lively(**{**KINDS, **ROTARY}[kind])
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    check_readable(vit)
    tokens, attention = plainly(vit, images)
    assert attention.std() > 0.02
    features = read_features(vit, images)
    torch.testing.assert_close(features.cls_token, tokens[:, 0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(features.log_attention.exp(), attention, rtol=1e-10, atol=1e-10)

    weights = torch.randn_like(attention)
    parameters = list(vit.parameters())
    values = [tokens[:, 0].sum() + (weights * attention).sum()]
    values.append(features.cls_token.sum() + (weights * features.log_attention.exp()).sum())
    full, ours = (torch.autograd.grad(value, parameters) for value in values)
    for (name, _), expected, found in zip(vit.named_parameters(), full, ours, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=name)


def test_patch_tokens_are_those_of_the_full_forward_pass_without_registers():
    vit = lively(reg_tokens=3)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    features = read_features(vit, images, patch_tokens=True)
    torch.testing.assert_close(features.patch_tokens, vit.forward_features(images)[:, 4:])
    torch.testing.assert_close(features.cls_token, vit.forward_features(images)[:, 0])


@pytest.mark.parametrize("family", [VisionTransformer, Eva])
def test_a_model_made_for_average_pooling_is_normed_by_the_norm_after_its_pool(family):
    """Its `norm` is empty: an unnormed class token would be a target of another scale for every image."""
    vit = family(**SIZES, global_pool="avg").double().eval()
    nn.init.normal_(vit.fc_norm.weight)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    tokens = vit.fc_norm(vit.forward_features(images))
    features = read_features(vit, images, patch_tokens=True)
    torch.testing.assert_close(features.cls_token, tokens[:, 0])
    torch.testing.assert_close(features.patch_tokens, tokens[:, 1:])
    torch.testing.assert_close(read_features(vit, images).cls_token, tokens[:, 0])


def test_attention_stays_in_full_precision_under_bfloat16():
    """Three digits would round most differences between teacher and student away."""
    vit, images = lively().bfloat16(), torch.randn(2, 3, 16, 16).bfloat16()
    features = read_features(vit, images)
    assert features.log_attention.dtype == torch.float32
    assert features.cls_token.dtype == torch.bfloat16
    torch.testing.assert_close(features.log_attention.exp().sum(-1), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"class_token": False, "global_pool": "avg"}, "no class token"),
        ({"attn_drop_rate": 0.1}, "dropout"),
        ({"proj_drop_rate": 0.1}, "dropout"),
        ({"drop_path_rate": 0.1}, "dropout"),
        ({"patch_drop_rate": 0.5}, "dropout"),
        ({"block_fn": ParallelScalingBlock}, "ParallelScalingBlock"),
        ({"attn_layer": "diff"}, "Block with DiffAttention are not read"),
    ],
    ids=str,
)
def test_what_the_readout_would_get_wrong_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        check_readable(VisionTransformer(**SIZES, **kind))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"class_token": False, "global_pool": "avg"}, "no class token"),
        ({"use_post_norm": True}, "EvaBlockPostNorm with EvaAttention are not read; allowed: EvaBlock with"),
        ({"attn_type": "rope"}, "EvaBlock with AttentionRope are not read"),
        ({"patch_drop_rate": 0.5}, "dropout"),
    ],
    ids=str,
)
def test_what_the_readout_of_rotary_models_would_get_wrong_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        check_readable(Eva(**SIZES, **{**DINOV3, **kind}))


def test_rotary_positions_that_differ_from_block_to_block_are_refused():
    with pytest.raises(ValueError, match="mixed"):
        check_readable(Eva(**SIZES, **{**DINOV3, "rope_type": "mixed"}))


def test_a_model_of_another_family_is_refused_by_name():
    with pytest.raises(ValueError, match="Linear is not read; allowed: timm's VisionTransformer, and Eva"):
        check_readable(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["registers", "query and key norms", "DINOv3"])
def test_attention_of_chosen_layers_is_that_of_those_blocks(kind):
    vit = lively(**{**KINDS, **ROTARY}[kind])
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    first, last = read_features(vit, images, layers=[0, -1]).layer_attention
    torch.testing.assert_close(first.exp(), plainly(vit, images, 0)[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last.exp(), plainly(vit, images, -1)[1], rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="layer 2; this backbone has blocks 0 to 1"):
        read_features(vit, images, layers=[2])


@pytest.mark.parametrize("kind", ["registers", "DINOv3 with biases", "rotary with three projections"])
def test_value_norms_are_the_lengths_of_the_last_blocks_values_without_registers(kind):
    vit = lively(**{**KINDS, **ROTARY}[kind])
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    attn, inputs = vit.blocks[-1].attn, []
    hook = attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    vit.forward_features(images)
    hook.remove()
    if attn.qkv is None:
        values = attn.v_proj(inputs[0])
    else:
        values = attn.qkv(inputs[0])[..., -24:]
        values = values if getattr(attn, "v_bias", None) is None else values + attn.v_bias
    norms = values.unflatten(-1, (3, 8)).square().sum(-1).sqrt().transpose(1, 2)
    kept = torch.cat([norms[..., :1], norms[..., vit.num_prefix_tokens :]], dim=-1)
    torch.testing.assert_close(read_features(vit, images, value_norms=True).value_norms, kept)

"""The class-token-only last block against timm's full forward pass, for every kind of block it accepts."""

import pytest
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor

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
}


def lively(**kind: object) -> VisionTransformer:
    """A float64 model whose norms, biases and scales are all in use and whose attention is far from uniform."""
    torch.manual_seed(1)
    vit = VisionTransformer(**SIZES, **kind).double().eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return vit


def plainly(vit: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """timm's normed tokens; the class token's attention over (class, patches) from the last queries and keys."""
    seen: list[Tensor] = []
    attn = vit.blocks[-1].attn
    hook = attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = vit.forward_features(images)
    hook.remove()
    query, key, _ = attn.qkv(seen[0]).unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    scores = attn.q_norm(query) @ attn.k_norm(key).transpose(-1, -2) * attn.head_dim**-0.5
    row = scores.softmax(dim=-1)[:, :, 0]
    kept = torch.cat([row[..., :1], row[..., vit.num_prefix_tokens :]], dim=-1)
    return tokens, kept / kept.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
def test_class_token_attention_and_gradients_equal_the_full_forward_pass(kind):
    vit = lively(**KINDS[kind])
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


def test_a_model_of_another_family_is_refused_by_name():
    eva = Eva(img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, num_classes=0)
    with pytest.raises(ValueError, match="Eva is not a timm VisionTransformer"):
        check_readable(eva)

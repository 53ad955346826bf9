"""Readout: the class token and its attention, computed for the class token alone.

Only the class token's query of the last block enters the method (paper sec. 3), so the last block runs for one query:
all keys and values, one row of attention, one row of MLP. Where keys carry no norm of their own, the key and value
projections are absorbed as well: with u_h = Wk_h^T q_h the logits are u_h . x_n, and the output is Wv_h applied to the
attention-pooled tokens, so N tokens are never projected. Exact up to rounding.

What a reader would get wrong: the absorbed logits leave out q_h . bk_h. It is the same for every token of a head, and
log_softmax removes it.
"""

from typing import Any

import torch
from jaxtyping import Float
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from attndistill.core.features import Features

# B batch, T all tokens (class, registers, patches), A attended (class, patches), D width, H heads, K width of a head


def read_features(vit: VisionTransformer, images: Float[Tensor, "B 3 S S"], *, patch_tokens: bool = False) -> Features:
    """Run a backbone for its class token and the class token's attention in the last block.

    Args:
        vit: any timm VisionTransformer that `check_readable` accepts.
        images: normalised images.
        patch_tokens: also return the normed patch tokens, at the cost of a full last block.

    Returns:
        Features; attention is over (class token, patches). Register tokens are no patches: their share is taken out
        and the rest renormalised.
    """
    tokens = embed(vit, images)
    for block in vit.blocks[:-1]:
        tokens = block(tokens)
    prefix = vit.num_prefix_tokens
    cls_token, logits = class_token_block(vit.blocks[-1], tokens)
    log_attention = _over_class_and_patches(logits, prefix)
    if not patch_tokens:
        return Features(vit.norm(cls_token), log_attention)
    normed = vit.norm(vit.blocks[-1](tokens))
    return Features(normed[:, 0], log_attention, normed[:, prefix:])


def embed(vit: VisionTransformer, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T D"]:
    """Tokens before the first block: patches, class token and registers, positions added."""
    tokens = vit._pos_embed(vit.patch_embed(images))
    return vit.norm_pre(vit.patch_drop(tokens))  # type: ignore[no-any-return]


def class_token_block(
    block: Block, tokens: Float[Tensor, "B T D"]
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B H T"]]:
    """A transformer block for the class token's query only.

    Returns:
        The class token after the block, and its attention logits over all tokens in float32 (per head, up to a
        constant).
    """
    normed = block.norm1(tokens)
    attend = _attend_absorbed if isinstance(block.attn.k_norm, nn.Identity) else _attend_plainly
    pooled, logits = attend(block.attn, normed)
    pooled = block.attn.norm(pooled)
    if block.attn.gate is not None:
        pooled = pooled * block.attn.gate(normed[:, 0]).sigmoid()
    cls_token = tokens[:, 0] + block.ls1(block.attn.proj(pooled))
    return cls_token + block.ls2(block.mlp(block.norm2(cls_token))), logits


def _attend_absorbed(attn: Attention, normed: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor]:
    heads, width = attn.num_heads, attn.head_dim
    to_query, to_key, to_value = attn.qkv.weight.view(3, heads, width, -1)
    query_bias, _, value_bias = _biases(attn)
    query = F.linear(normed[:, 0], to_query.flatten(0, 1), query_bias).unflatten(1, (heads, width)) * attn.scale
    absorbed = torch.einsum("bhk,hkd->bhd", query, to_key)
    logits = _full_precision(absorbed @ normed.transpose(1, 2))
    pooled = logits.softmax(dim=-1).to(normed.dtype) @ normed
    values = torch.einsum("bhd,hkd->bhk", pooled, to_value).flatten(1)
    return values if value_bias is None else values + value_bias, logits


def _attend_plainly(attn: Attention, normed: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor]:
    heads, width = attn.num_heads, attn.head_dim
    to_query, to_key_and_value = attn.qkv.weight.split([heads * width, 2 * heads * width])
    query_bias, key_bias, value_bias = _biases(attn)
    bias = None if key_bias is None else torch.cat([key_bias, value_bias])
    query = attn.q_norm(F.linear(normed[:, 0], to_query, query_bias).unflatten(1, (heads, width))) * attn.scale
    key, value = F.linear(normed, to_key_and_value, bias).unflatten(2, (2, heads, width)).permute(2, 0, 3, 1, 4)
    logits = _full_precision(torch.einsum("bhk,bhtk->bht", query, attn.k_norm(key)))
    return torch.einsum("bht,bhtk->bhk", logits.softmax(dim=-1).to(value.dtype), value).flatten(1), logits


def _full_precision(logits: Tensor) -> Tensor:
    """Attention is compared in log space, where bf16's three digits are not enough."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _biases(attn: Attention) -> Any:
    return (None, None, None) if attn.qkv.bias is None else attn.qkv.bias.chunk(3)


def _over_class_and_patches(logits: Float[Tensor, "B H T"], prefix: int) -> Float[Tensor, "B H A"]:
    if prefix > 1:
        logits = torch.cat([logits[..., :1], logits[..., prefix:]], dim=-1)
    return logits.log_softmax(dim=-1)


def check_readable(vit: nn.Module) -> None:
    """Refuse a backbone whose class-token attention cannot be read. Raises ValueError saying what is missing."""
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"{type(vit).__name__} is not a timm VisionTransformer; only those can be read")
    if vit.cls_token is None:
        raise ValueError("the model has no class token: attention distillation matches where the class token looks")
    last = vit.blocks[-1]
    if type(last) is not Block or type(last.attn) is not Attention:
        attention = type(getattr(last, "attn", None)).__name__
        raise ValueError(
            f"blocks of {type(last).__name__} with {attention} are not read; allowed: Block with Attention"
        )
    dropped = last.attn.attn_drop.p or last.attn.proj_drop.p or not isinstance(last.drop_path1, nn.Identity)
    if dropped or not isinstance(vit.patch_drop, nn.Identity):
        raise ValueError(
            "dropout of attention, projection, paths or patches is not supported: the readout would leave it out"
        )

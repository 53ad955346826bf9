"""The two families of backbones the readout knows: timm's VisionTransformer, and Eva with rotary positions (DINOv3).

A family says how tokens enter the first block and how a block answers for the class token's query alone. All logits are
the class token's, per head, over all tokens, in float32 at least, up to a constant per head.

What a reader would get wrong: the absorbed logits of `Plain` leave out q_h . bk_h. It is the same for every token of a
head, and log_softmax removes it. Rotary positions turn queries and keys of patches only; the class token's query stays.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from timm.layers import Attention, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from attndistill.models.kernels import fused_attention_pays
from attndistill.models.lean import is_lean, lean_block

# B batch, T all tokens (class, registers, patches), D width, H heads, K width of a head


Backbone = VisionTransformer | Eva


@runtime_checkable
class Family(Protocol):
    """One backbone, ready to be read."""

    def embed(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T D"]:
        """Tokens before the first block."""

    def run(self, block: Any, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """A whole block, for all queries."""

    def class_token(self, block: Any, tokens: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor]:
        """The class token after the block (B D), and its attention logits (B H T)."""

    def values(self, block: Any, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T K"]:
        """The value vectors of a block."""


class Plain:
    """timm's VisionTransformer: DINO, MAE, iBOT, Mugs, DINOv2 (LayerScale, registers), qk-norm.

    Where keys carry no norm of their own, key and value projections are absorbed: with u_h = Wk_h^T q_h the logits are
    u_h . x_n, and the output is Wv_h applied to the attention-pooled tokens, so N tokens are never projected.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        self.vit = vit

    def embed(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T D"]:
        """Patches, class token and registers, positions added."""
        tokens = self.vit._pos_embed(self.vit.patch_embed(images))
        return self.vit.norm_pre(self.vit.patch_drop(tokens))  # type: ignore[no-any-return]

    def run(self, block: Block, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The block itself, with timm's fused attention where that is the faster one; trained with less memory."""
        if torch.is_grad_enabled() and is_lean(block):
            return lean_block(block, tokens)
        block.attn.fused_attn = fused_attention_pays(tokens)
        return block(tokens)  # type: ignore[no-any-return]

    def class_token(self, block: Block, tokens: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor]:
        """The block for one query: all keys and values, one row of attention, one row of MLP."""
        normed = block.norm1(tokens)
        attend = _attend_absorbed if isinstance(block.attn.k_norm, nn.Identity) else _attend_plainly
        pooled, logits = attend(block.attn, normed)
        cls_token = tokens[:, 0] + block.ls1(_leave(block.attn, pooled, normed))
        return cls_token + block.ls2(block.mlp(block.norm2(cls_token))), logits

    def values(self, block: Block, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T K"]:
        """Value vectors, bias included."""
        attn, normed = block.attn, block.norm1(tokens)
        weight, bias = attn.qkv.weight.chunk(3)[2], _biases(attn)[2]
        values: Tensor = F.linear(normed, weight, bias).unflatten(2, (attn.num_heads, attn.head_dim))
        return values.transpose(1, 2)


class Rotary:
    """timm's Eva with rotary positions: DINOv3."""

    def __init__(self, vit: Eva) -> None:
        self.vit = vit
        self._rope: Tensor | None = None

    def embed(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T D"]:
        """Class token, registers and patches; keeps the rotation of this image size."""
        tokens, self._rope = self.vit._pos_embed(self.vit.patch_embed(images))
        return self.vit.norm_pre(tokens)  # type: ignore[no-any-return]

    def run(self, block: EvaBlock, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The block itself, with timm's fused attention where that is the faster one."""
        block.attn.fused_attn = fused_attention_pays(tokens)
        return block(tokens, rope=self._rope)  # type: ignore[no-any-return]

    def class_token(self, block: EvaBlock, tokens: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor]:
        """The block for one query."""
        attn, normed = block.attn, block.norm1(tokens)
        query = attn.q_norm(_heads(attn, _projected(attn, 0, normed[:, :1])))[:, :, 0] * attn.scale
        key = self._turned(attn, attn.k_norm(_heads(attn, _projected(attn, 1, normed))))
        logits = _full_precision(torch.einsum("bhk,bhtk->bht", query, key))
        value = _heads(attn, _projected(attn, 2, normed))
        pooled = torch.einsum("bht,bhtk->bhk", logits.softmax(dim=-1).to(value.dtype), value).flatten(1)
        cls_token = tokens[:, 0] + _scaled(block.gamma_1, _leave(attn, pooled, normed))
        return cls_token + _scaled(block.gamma_2, block.mlp(block.norm2(cls_token))), logits

    def values(self, block: EvaBlock, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T K"]:
        """Value vectors, bias included."""
        return _heads(block.attn, _projected(block.attn, 2, block.norm1(tokens)))

    def _turned(self, attn: EvaAttention, key: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        if self._rope is None:
            return key
        prefix = attn.num_prefix_tokens
        patches = apply_rot_embed_cat(key[:, :, prefix:], self._rope, half=attn.rotate_half)
        return torch.cat([key[:, :, :prefix], patches], dim=2).type_as(key)


def family_of(vit: nn.Module) -> Family:
    """The family of a backbone. Raises ValueError saying which are known."""
    if isinstance(vit, VisionTransformer):
        return Plain(vit)
    if isinstance(vit, Eva):
        return Rotary(vit)
    raise ValueError(f"{type(vit).__name__} is not read; allowed: timm's VisionTransformer, and Eva (DINOv3)")


def check_readable(vit: nn.Module) -> None:
    """Refuse a backbone whose class-token attention cannot be read. Raises ValueError saying what is missing."""
    family_of(vit)
    if getattr(vit, "cls_token", None) is None:
        raise ValueError("the model has no class token: attention distillation matches where the class token looks")
    last: Any = vit.blocks[-1]  # type: ignore[index]
    wanted = (Block, Attention) if isinstance(vit, VisionTransformer) else (EvaBlock, EvaAttention)
    found = type(last), type(getattr(last, "attn", None))
    if found != wanted:
        given, allowed = (" with ".join(kind.__name__ for kind in kinds) for kinds in (found, wanted))
        raise ValueError(f"blocks of {given} are not read; allowed: {allowed}")
    if getattr(vit, "rope_mixed", False):
        raise ValueError("rotary positions that differ from block to block (mixed) are not read; allowed: shared ones")
    dropped = last.attn.attn_drop.p or last.attn.proj_drop.p or not isinstance(last.drop_path1, nn.Identity)
    if dropped or not isinstance(vit.patch_drop, nn.Identity | None):
        raise ValueError(
            "dropout of attention, projection, paths or patches is not supported: the readout would leave it out"
        )


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


def _leave(attn: Any, pooled: Float[Tensor, "B D"], normed: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
    """What follows attention: a norm and a gate where the model has them, and the output projection."""
    pooled = attn.norm(pooled)
    if attn.gate is not None:
        pooled = pooled * attn.gate(normed[:, 0]).sigmoid()
    return attn.proj(pooled)  # type: ignore[no-any-return]


def _projected(attn: EvaAttention, part: int, normed: Tensor) -> Tensor:
    """Queries (0), keys (1) or values (2), from one fused projection or from three."""
    if attn.qkv is None:
        projected: Tensor = (attn.q_proj, attn.k_proj, attn.v_proj)[part](normed)
    else:
        bias = (attn.q_bias, attn.k_bias, attn.v_bias)[part]
        projected = F.linear(normed, attn.qkv.weight.chunk(3)[part], bias)
    return projected


def _heads(attn: EvaAttention, projected: Tensor) -> Float[Tensor, "B H T K"]:
    heads: Tensor = projected.unflatten(2, (attn.num_heads, attn.head_dim))
    return heads.transpose(1, 2)


def _scaled(gamma: Tensor | None, tokens: Tensor) -> Tensor:
    return tokens if gamma is None else gamma * tokens


def _full_precision(logits: Tensor) -> Tensor:
    """Attention is compared in log space, where bf16's three digits are not enough."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _biases(attn: Attention) -> Any:
    return (None, None, None) if attn.qkv.bias is None else attn.qkv.bias.chunk(3)

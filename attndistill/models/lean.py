"""A transformer block that is trained with two thirds of the memory: what is cheap to compute is computed twice.

Of each token, autograd keeps 17 widths for a block of MLP ratio 4. Here the outputs of the two norms and of the GELU
are left out (11 widths are kept) and computed again in the backward pass, from what is kept anyway. The forward pass
is the same to the last bit; gradients are the same products of the same factors.

B batch, T tokens, D width, E output width, H hidden width.
"""

from typing import Any

import torch
from jaxtyping import Float
from timm.layers import Attention, LayerNorm, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attndistill.models.kernels import computed_in, fused_attention_pays

_aten: Any = torch.ops.aten


def is_lean(block: Any) -> bool:
    """Whether `lean_block` knows all parts of a block: timm's plain one, without dropout, gates or norms of its own."""
    attn, mlp = block.attn, block.mlp
    return (
        type(block) is Block
        and type(attn) is Attention
        and type(mlp) is Mlp
        and all(
            type(norm) in (nn.LayerNorm, LayerNorm) and norm.elementwise_affine for norm in (block.norm1, block.norm2)
        )
        and all(type(part) is nn.Linear for part in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2))
        and all(isinstance(part, nn.Identity) for part in (attn.q_norm, attn.k_norm, attn.norm, mlp.norm))
        and attn.gate is None
        and type(mlp.act) is nn.GELU
        and not (mlp.drop1.p or mlp.drop2.p)
    )


def lean_block(block: Any, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """The block, for training; `check_readable` has seen that nothing is dropped in its attention."""
    attn, mlp = block.attn, block.mlp
    qkv = _NormLinear.apply(tokens, *_norm(block.norm1), *_linear(attn.qkv))
    query, key, value = qkv.unflatten(2, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    mixed = _attended(query, key, value, attn.scale, fused=fused_attention_pays(tokens))
    tokens = tokens + block.ls1(attn.proj(mixed.transpose(1, 2).flatten(2)))
    after = _NormMlp.apply(tokens, mlp.act.approximate, *_norm(block.norm2), *_linear(mlp.fc1), *_linear(mlp.fc2))
    return tokens + block.ls2(after)  # type: ignore[no-any-return]


def _attended(query: Tensor, key: Tensor, value: Tensor, scale: float, *, fused: bool) -> Tensor:
    if fused:
        return F.scaled_dot_product_attention(query, key, value)
    return (query * scale @ key.transpose(-2, -1)).softmax(dim=-1) @ value


def _norm(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    return norm.weight, norm.bias, norm.eps


def _linear(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return linear.weight, linear.bias


def _normed(tokens: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normed tokens, and the mean and 1 / deviation of each."""
    return _aten.native_layer_norm(tokens, tokens.shape[-1:], scale, shift, eps)  # type: ignore[no-any-return]


def _normed_gradients(
    gradient: Tensor, tokens: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, shift: Tensor
) -> Any:
    """Of tokens, scale and shift."""
    arguments = (tokens, tokens.shape[-1:], mean, rstd, scale, shift, [True] * 3)
    return _aten.native_layer_norm_backward(gradient.to(tokens.dtype), *arguments)


class _NormLinear(torch.autograd.Function):
    """linear(norm(tokens)): keeps tokens, not the norm's output."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, scale: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> Float[Tensor, "B T E"]:
        ctx.eps, ctx.computed_in = eps, computed_in(tokens)
        normed, mean, rstd = _normed(tokens, scale, shift, eps)
        ctx.save_for_backward(tokens, mean, rstd, scale, shift, weight)
        ctx.biased = bias is not None
        return F.linear(normed.to(ctx.computed_in), *_cast(ctx.computed_in, weight, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        tokens, mean, rstd, scale, shift, weight = ctx.saved_tensors
        normed = _normed(tokens, scale, shift, ctx.eps)[0].to(ctx.computed_in)
        before, of_weight, of_bias = _linear_backward(gradient, normed, weight, biased=ctx.biased)
        return *_normed_gradients(before, tokens, mean, rstd, scale, shift), None, of_weight, of_bias


class _NormMlp(torch.autograd.Function):
    """linear(gelu(linear(norm(tokens)))): keeps tokens and what enters the GELU."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        approximate: str,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        weight1: Tensor,
        bias1: Tensor | None,
        weight2: Tensor,
        bias2: Tensor | None,
    ) -> Float[Tensor, "B T D"]:
        ctx.eps, ctx.computed_in = eps, computed_in(tokens)
        normed, mean, rstd = _normed(tokens, scale, shift, eps)
        hidden = F.linear(normed.to(ctx.computed_in), *_cast(ctx.computed_in, weight1, bias1))
        ctx.save_for_backward(tokens, mean, rstd, scale, shift, hidden, weight1, weight2)
        ctx.approximate, ctx.biased = approximate, (bias1 is not None, bias2 is not None)
        return F.linear(F.gelu(hidden, approximate=approximate), *_cast(ctx.computed_in, weight2, bias2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        tokens, mean, rstd, scale, shift, hidden, weight1, weight2 = ctx.saved_tensors
        active = F.gelu(hidden, approximate=ctx.approximate)
        inner, of_weight2, of_bias2 = _linear_backward(gradient, active, weight2, biased=ctx.biased[1])
        del active
        inner = _aten.gelu_backward(inner, hidden, approximate=ctx.approximate)
        normed = _normed(tokens, scale, shift, ctx.eps)[0].to(ctx.computed_in)
        before, of_weight1, of_bias1 = _linear_backward(inner, normed, weight1, biased=ctx.biased[0])
        of_tokens, of_scale, of_shift = _normed_gradients(before, tokens, mean, rstd, scale, shift)
        return of_tokens, None, of_scale, of_shift, None, of_weight1, of_bias1, of_weight2, of_bias2


def _cast(dtype: torch.dtype, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _linear_backward(
    gradient: Float[Tensor, "B T E"], entered: Float[Tensor, "B T D"], weight: Float[Tensor, "E D"], *, biased: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of what entered, of the weight and of the bias."""
    rows, columns = gradient.flatten(0, 1), entered.flatten(0, 1)
    before = (rows @ weight.to(rows.dtype)).view_as(entered)
    return before, (rows.T @ columns).to(weight.dtype), rows.sum(dim=0).to(weight.dtype) if biased else None

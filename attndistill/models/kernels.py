"""Which kernels a backbone's blocks run with: chosen from a table of measurements, never by a race at run time.

A race would make the last bits of a result depend on the machine's load. The measurements stand in
docs/lab-notebook.md (2026-11-24, 2026-11-27): on a CPU the fused attention wins in fp32; in bf16 its backward pass is
up to six times slower than the plain one for the sequences of a student, and without AMX its forward pass twice; a GELU
fused into the linear layer
before it, whose frozen weights oneDNN has laid out once, saves up to a quarter of a small teacher's time.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

# B batch, T tokens, D and E widths

_FUSED_BF16_BACKWARD_FROM = 256  # tokens; below, forming the matrix is faster
_FUSED_BF16_FROM = 1024  # tokens, without a backward pass and without AMX; there the matrix takes too much memory
_READ_AT_ONCE = 2_500_000  # numbers of all tokens: 32 images of S/16 at 224 px, 8 of S/8, 600 of the embedded default


def fused_attention_pays(tokens: Float[Tensor, "B T D"]) -> bool:
    """Whether attention over these tokens is faster by the fused kernel, with a backward pass where one will follow."""
    if tokens.device.type != "cpu" or computed_in(tokens) != torch.bfloat16:
        return True
    if torch.is_grad_enabled():
        return tokens.shape[1] >= _FUSED_BF16_BACKWARD_FROM
    return _has_amx() or tokens.shape[1] >= _FUSED_BF16_FROM


@cache
def _has_amx() -> bool:
    """Whether this processor multiplies tiles of bf16, which the fused kernel makes use of."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def images_at_once(vit: Any, device: torch.device, at_most: int) -> int:
    """How many images a frozen backbone reads at once: a power of two below `at_most` where its tokens are many.

    On a CPU, tokens of more than 10 MB (their widest layer of 40 MB) leave the processor's cache and what the allocator
    keeps: larger batches take longer and more memory (docs/performance.md). Elsewhere `at_most` is right.
    """
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    fitting = max(1, _READ_AT_ONCE // (tokens * vit.embed_dim))
    return min(at_most, 1 << (int(fitting).bit_length() - 1)) if device.type == "cpu" else at_most


class FrozenLinear(nn.Linear):
    """A linear layer that is never trained: its weight is laid out once for oneDNN, a GELU may follow in the same pass.

    Laid out at the first call, once a dtype. Where oneDNN does not serve (other devices, float64) it is a plain layer.

    Args:
        linear: whose parameters are shared.
        gelu: "none" (exact) or "tanh": that GELU follows; None: nothing does.
    """

    def __init__(self, linear: nn.Linear, gelu: str | None = None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias, self.gelu = linear.weight, linear.bias, gelu
        self._packed: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}

    def forward(self, tokens: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        """The layer, and its GELU."""
        dtype = computed_in(tokens)
        if tokens.device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16) or torch.is_grad_enabled():
            plain = super().forward(tokens)
            return plain if self.gelu is None else F.gelu(plain, approximate=self.gelu)
        weight, bias = self._laid_out(dtype)
        after = ("none", "") if self.gelu is None else ("gelu", self.gelu)
        answer: Tensor = torch.ops.mkldnn._linear_pointwise(tokens.to(dtype), weight, bias, after[0], [], after[1])
        return answer

    def _laid_out(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        if dtype not in self._packed:
            weight = self.weight.detach().to(dtype).contiguous()
            bias = None if self.bias is None else self.bias.detach().to(dtype)
            self._packed[dtype] = torch.ops.mkldnn._reorder_linear_weight(weight, None), bias
        return self._packed[dtype]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "FrozenLinear":
        """Parameters that move or change type are laid out anew."""
        self._packed.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy lays out its own."""
        return {**self.__dict__, "_packed": {}}


def use_frozen_kernels(vit: Any) -> None:
    """Let the blocks of a frozen timm ViT run with `FrozenLinear`; names of parameters stay. Others are left alone."""
    for block in vit.blocks[:-1]:  # the last block runs for the class token alone
        mlp = block.mlp
        for attention_layer in ("qkv", "proj"):
            _replace(block.attn, attention_layer)
        if type(mlp) is not Mlp:
            continue
        fused = type(mlp.act) is nn.GELU and type(mlp.fc1) is nn.Linear
        _replace(mlp, "fc1", mlp.act.approximate if fused else None)
        _replace(mlp, "fc2")
        if fused:
            mlp.act = nn.Identity()


def _replace(parent: Any, name: str, gelu: str | None = None) -> None:
    if type(linear := getattr(parent, name)) is nn.Linear:
        setattr(parent, name, FrozenLinear(linear, gelu))


def computed_in(tokens: Tensor) -> torch.dtype:
    """The type that a product with these tokens is computed in, autocast heeded."""
    kind = tokens.device.type
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if mixed else tokens.dtype

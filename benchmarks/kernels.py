"""The two kernels a block chooses between, each beside the plain one: what `models/kernels.py` takes its table from.

Attention over every length that the three configurations have, forward alone (a frozen teacher) and with the backward
pass (a student), and a frozen layer with its GELU. What a reader would get wrong: without bf16 instructions a processor
emulates bf16, and the bf16 columns say nothing of one that has them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attndistill.models.kernels import FrozenLinear, fused_attention_pays
from benchmarks.machine import PRECISIONS
from benchmarks.timing import compared, interleaved

# images, heads, tokens, width of a head: students of the small pair and of 224 px, teachers of both
_ATTENTION = [(32, 3, 17, 64), (16, 3, 65, 64), (4, 6, 197, 64), (2, 12, 197, 64), (1, 6, 785, 64)]
_PASSES = 10  # a round: one pass is over before a clock can tell
# images x tokens, width before, width after: the layer before the GELU
_LAYERS = [(8320, 192, 768), (3140, 384, 1536), (1576, 768, 3072)]
Size = tuple[int, ...]


def measure(
    *, repeats: int, attention: Sequence[Size] = _ATTENTION, layers: Sequence[Size] = _LAYERS
) -> dict[str, Any]:
    """What is computed, precision and direction -> each size by each kernel, and the kernel that the package takes.

    Args:
        repeats: rounds.
        attention: images, heads, tokens and width of a head; left out: those of the three configurations.
        layers: rows, width before and after; left out: likewise.
    """
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        for trained in (False, True):
            label = f"attention, {precision}, {'with backward' if trained else 'forward'}"
            found[label] = _of_each(attention, partial(_attention, precision, trained, repeats))
        found[f"frozen layer and GELU, {precision}"] = _of_each(layers, partial(_layer, precision, repeats))
    return found


def _of_each(sizes: Sequence[Size], measured: Callable[[Size], dict[str, Any]]) -> dict[str, Any]:
    return {f"{'x'.join(map(str, size))}, {name}": one for size in sizes for name, one in measured(size).items()}


def _attention(precision: str, trained: bool, repeats: int, size: Size) -> dict[str, Any]:
    batch, heads, tokens, width = size
    dtype = PRECISIONS[precision]
    inputs = tuple(
        torch.randn(size, generator=torch.Generator().manual_seed(part)).to(dtype).requires_grad_() for part in range(3)
    )
    with torch.set_grad_enabled(trained):
        fused = fused_attention_pays(torch.empty(batch, tokens, heads * width, dtype=dtype))
    kernels = {"plain": _plain, "fused": F.scaled_dot_product_attention}
    work = {name: _passes(kernel, inputs, trained) for name, kernel in kernels.items()}
    found = compared(interleaved(work, repeats, label=f"attention {size} {precision}"), "plain", batch * _PASSES)
    return {**found, "taken": "fused" if fused else "plain"}


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attention: Tensor = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
    return attention @ value


def _passes(kernel: Callable[..., Tensor], inputs: tuple[Tensor, ...], trained: bool) -> Callable[[], None]:
    def work() -> None:
        for _ in range(_PASSES):
            with torch.set_grad_enabled(trained):
                answer = kernel(*inputs)
            if trained:
                torch.autograd.grad(answer, inputs, torch.ones_like(answer))

    return work


def _layer(precision: str, repeats: int, size: Size) -> dict[str, Any]:
    rows, before, after = size
    dtype = PRECISIONS[precision]
    linear = nn.Linear(before, after).requires_grad_(False)
    frozen = FrozenLinear(linear, "none")
    tokens = torch.randn(rows, before, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight, bias = linear.weight.to(dtype), linear.bias.to(dtype)

    def at_once() -> None:
        with torch.no_grad():
            frozen(tokens)

    work: dict[str, Callable[[], object]] = {
        "plain": lambda: F.gelu(F.linear(tokens, weight, bias)),
        "at once": at_once,
    }
    return compared(interleaved(work, repeats, label=f"layer {size} {precision}"), "plain", rows)

"""Models without weights, on torch's meta device: names and shapes of whatever size a file claims."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# how timm and torch fill weights, beside torch.nn.init; on the meta device there is nothing to fill
_FILLING = {
    getattr(Tensor, f"{how}_") for how in ("normal", "uniform", "erfinv", "mul", "add", "clamp", "fill", "zero")
}


class _Unfilled(TorchFunctionMode):
    """Leaves them out: for the first of them torch imports its symbolic shapes and sympy, a second of every stage."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING or getattr(func, "__module__", "") == "torch.nn.init":
            filled = args[0] if args else kwargs["tensor"]
            if filled.is_meta:
                return filled
        return func(*args, **kwargs)


@contextmanager
def weightless() -> Iterator[None]:
    """What is built inside has names and shapes, and neither memory nor values."""
    with torch.device("meta"), _Unfilled():
        yield

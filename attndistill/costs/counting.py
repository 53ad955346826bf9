"""Counting what a computation does and keeps, on tensors without values: FLOPs, bytes for its gradients, bytes alive.

A step is counted on fake tensors of the CPU and not on the meta device, which knows no autocast.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

FAKE = FakeTensorMode(allow_non_fake_inputs=True)


def counted(loss: Callable[[int], Tensor], precision: str, *modules: nn.Module) -> tuple[int, int]:
    """(FLOPs of the loss and of its backward pass, bytes saved in between), of one image more in a batch.

    So what a batch keeps once, such as weights cast for autocast, is left out. (One image alone is a special case:
    some of its tensors need not be copied.)
    """
    with FAKE:
        for module in modules:
            module.to_empty(device="cpu")
        (fewer, less), (more, larger) = (_whole(loss, images, precision, modules) for images in (2, 3))
    return more - fewer, larger - less


def _whole(loss: Callable[[int], Tensor], images: int, precision: str, modules: Sequence[nn.Module]) -> tuple[int, int]:
    """(FLOPs, bytes saved) of so many images, the modules' own tensors left out."""
    own = set().union(*map(_storages, modules))
    saved: dict[int, torch.UntypedStorage] = {}  # alive to the end: the address of a freed one may be another's

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    counter = FlopCounterMode(display=False)
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    with counter:
        with half, sdpa_kernel(SDPBackend.MATH), saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(images)
        value.backward()
    return counter.get_total_flops(), sum(kept.nbytes() for address, kept in saved.items() if address not in own)


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made inside of it that are alive together, weights left out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = self._now = 0
        self._known = _storages(module)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor) and made.untyped_storage()._cdata not in self._known:
                self._add(made.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self._now += storage.nbytes()
        self.largest = max(self.largest, self._now)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size


def _storages(module: nn.Module) -> set[int]:
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.untyped_storage()._cdata for tensor in tensors}

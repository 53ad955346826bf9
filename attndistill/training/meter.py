"""The running sums of an epoch's losses, and the watch that stops a run whose loss is not finite."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

_CHECK_EVERY = {"cpu": 1}  # steps between looks at the losses; elsewhere a look would stall the device
_CHECK_ELSEWHERE = 16


class TrainingBatch(Protocol):
    """What the loop needs to know of a batch."""

    @property
    def indices(self) -> NDArray[Any]: ...
    @property
    def epoch(self) -> int: ...


@dataclass
class Meter:
    """Sums of an epoch's losses, and the losses not yet known to be finite."""

    device: str
    sums: dict[str, Tensor] = field(default_factory=dict)
    pending: list[tuple[int, TrainingBatch, Tensor]] = field(default_factory=list)

    def add(self, step: int, batch: TrainingBatch, losses: dict[str, Tensor], share: float) -> None:
        for name, value in losses.items():
            value = value.detach().double() * share
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.pending.append((step, batch, losses["loss"].detach()))

    def check(self, step: int, *, force: bool = False) -> None:
        """Raise FloatingPointError for the first non-finite loss."""
        if not force and (step + 1) % _CHECK_EVERY.get(self.device, _CHECK_ELSEWHERE):
            return
        finite = torch.stack([loss for _, _, loss in self.pending]).isfinite().tolist() if self.pending else []
        for (bad_step, batch, loss), good in zip(self.pending, finite, strict=True):
            if not good:
                indices = ", ".join(map(str, batch.indices.tolist()))
                raise FloatingPointError(
                    f"loss is {loss.item()} at step {bad_step}, epoch {batch.epoch}, image indices [{indices}]"
                )
        self.pending.clear()

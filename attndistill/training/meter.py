"""The running sums of an epoch's losses, and the watch that stops a run whose loss is not finite."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from attndistill.core.ranks import texts_of_all_ranks

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
    shared: list[tuple[int, Tensor]] = field(default_factory=list)

    def add(self, step: int, batch: TrainingBatch, losses: dict[str, Tensor], share: float) -> None:
        for name, value in losses.items():
            value = value.detach().double() * share
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.pending.append((step, batch, losses["loss"].detach()))

    def share(self, step: int) -> None:
        """Tell all ranks whether a loss of this step is not finite, before its gradients, which they share, are used.

        Every rank finds the same at the same step. It is read when the losses are: nothing waits for the device here.
        """
        losses = torch.stack([loss for at, _, loss in self.pending if at == step]).double()
        total = losses.where(losses.isfinite(), torch.nan).sum() * 0  # 0, or NaN, which any sum keeps
        distributed.all_reduce(total)
        self.shared.append((step, total))

    def check(self, step: int, *, force: bool = False) -> bool:
        """Look at the losses since the last look; False where it is not time to.

        Raises:
            FloatingPointError: for the first step with a loss that is not finite, with every rank's own such images.
        """
        if not force and (step + 1) % _CHECK_EVERY.get(self.device, _CHECK_ELSEWHERE):
            return False
        watched = self.shared or [(at, loss) for at, _, loss in self.pending]
        finite = torch.stack([value for _, value in watched]).isfinite().tolist() if watched else []
        for (at, _), good in zip(watched, finite, strict=True):
            if not good:
                raise FloatingPointError(" and ".join(filter(None, texts_of_all_ranks(self._guilty(at)))))
        self.pending.clear()
        self.shared.clear()
        return True

    def _guilty(self, step: int) -> str:
        """What of this rank's is not finite at a step."""
        return " and ".join(
            f"loss is {loss.item()} at step {step}, epoch {batch.epoch}, image indices "
            f"[{', '.join(map(str, batch.indices.tolist()))}]"
            for at, batch, loss in self.pending
            if at == step and not loss.isfinite()
        )

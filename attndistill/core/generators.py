"""Libraries that draw from the process's own generators, driven by the counter: seeded for each item, then put back.

timm's augmentations draw from `random`, numpy's and torch's generators. Seeded by a number that is a pure function of
(seed, epoch, index), they answer the same in every worker and rank, and in a resumed run.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from attndistill.core.randomness import uniforms


def numbers(seed: int, stream: str, epoch: int, indices: NDArray[np.int64]) -> list[int]:
    """A number below 2**62 for each index, a pure function of (seed, stream, epoch, index)."""
    high, low = (uniforms(seed, stream, epoch, indices, 2) * 2.0**31).astype(np.int64).T
    return [int(number) for number in (high << 31) | low]


@contextmanager
def borrowed() -> Iterator[Callable[[int], None]]:
    """Yields what seeds the process's generators (those of the CPU); afterwards they are as they were."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def seed(number: int) -> None:
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.default_generator.manual_seed(number)

    try:
        yield seed
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])

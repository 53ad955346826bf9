"""Times taken side by side, so that a busy neighbour slows both sides of a ratio."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "lower": float(lower), "upper": float(upper)}


def interleaved(
    work: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    label: str,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every round of each piece of work; every second round runs backwards. One round before is not counted.

    Args:
        work: name -> what to time.
        repeats: rounds.
        label: for the line a round prints on stderr.
        clock: seconds; of what runs in this process alone its processor time is steadier.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(repeats + 1):
        for name in list(work)[:: -1 if number % 2 else 1]:
            start = clock()
            work[name]()
            if number:
                seconds[name].append(clock() - start)
        print(f"  {label}: round {number} of {repeats}", file=sys.stderr, flush=True)
    return seconds


def compared(seconds: Mapping[str, Sequence[float]], reference: str, amount: float) -> dict[str, dict[str, Spread]]:
    """Name -> seconds, `amount` of work a second, and how many times as fast as `reference`, round by round."""
    return {
        name: {
            "seconds": spread(mine),
            "a_second": spread([amount / value for value in mine]),
            "ratio": spread([other / value for value, other in zip(mine, seconds[reference], strict=True)]),
        }
        for name, mine in seconds.items()
    }

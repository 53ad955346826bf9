"""A figure over seeds, with everything that must stand beside it."""

import statistics
from typing import Any


def summarise(values: list[float], seeds: list[int], protocol: str) -> dict[str, Any]:
    """A figure over seeds: every value, mean and sample deviation (null for one seed), n, and the protocol."""
    return {
        "protocol": protocol,
        "values": values,
        "seeds": seeds,
        "n": len(values),
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }

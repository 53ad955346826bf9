"""The processes of a distributed run: which of them this one is, and what they bring together once an update.

torch is imported where it is needed: a launcher's environment is checked before.
"""

import os
from typing import Any

_NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets, and torch reads


def ranks_of_environment() -> tuple[int, int]:
    """(rank, number of ranks) that a launcher such as `torchrun` has set; (0, 1) without one.

    Raises:
        ValueError: only a part is set, or the numbers do not fit: every process would take itself for the only one.
    """
    given = {name: os.environ[name] for name in _NEEDED if os.environ.get(name)}
    if not given.keys() & {"RANK", "LOCAL_RANK", "WORLD_SIZE"}:  # a cluster may name a master for other programs
        return 0, 1
    missing = [name for name in _NEEDED if name not in given]
    if missing:
        raise ValueError(
            f"{', '.join(f'{name} is {value}' for name, value in given.items())}, but {' and '.join(missing)} not "
            "set; allowed: all of them (start with torchrun), or none"
        )
    try:
        rank, local, size = int(given["RANK"]), int(given["LOCAL_RANK"]), int(given["WORLD_SIZE"])
    except ValueError:
        rank, local, size = -1, -1, 0
    if not 0 <= local <= rank < size:
        raise ValueError(
            f"RANK is {given['RANK']}, LOCAL_RANK {given['LOCAL_RANK']} and WORLD_SIZE {given['WORLD_SIZE']}; allowed: "
            "whole numbers, 0 <= LOCAL_RANK <= RANK < WORLD_SIZE"
        )
    return rank, size


def of_all_ranks(rows: Any) -> Any:
    """Rows (B, ...) of every rank, (ranks x B, ...): rank after rank, which is the order of the batch.

    Every rank brings as many rows.
    """
    import torch
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def texts_of_all_ranks(text: str) -> list[str]:
    """What each rank has to say, in their order."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [text]
    texts = [""] * distributed.get_world_size()
    distributed.all_gather_object(texts, text)
    return texts

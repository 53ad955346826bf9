"""What the processes of a distributed run bring together once an update, in the order of the batch."""

import torch
from torch import Tensor, distributed


def of_all_ranks(rows: Tensor) -> Tensor:
    """Rows (B, ...) of every rank, (ranks x B, ...): rank after rank, which is the order of the batch.

    Every rank brings as many rows.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)

"""A photo and its nearest ones, as one picture."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from attndistill.figures.charts import canvas

_COLUMNS, _SIDE = 5, 1.7  # tiles in a row, inches of a tile
_NAME = 24  # letters of a name below its tile: the end, where names differ


def neighbours_picture(
    asked: tuple[str, UInt8[np.ndarray, "S S 3"]], found: Sequence[tuple[str, float, UInt8[np.ndarray, "S S 3"]]]
) -> bytes:
    """PNG: the photo first, then its neighbours in order.

    Args:
        asked: name and picture.
        found: name, cosine and picture of each neighbour, nearest first.
    """
    tiles = [(f"{_short(asked[0])}\n(asked)", asked[1])]
    tiles += [(f"{_short(name)}\n{cosine:.3f}", picture) for name, cosine, picture in found]
    rows = -(-len(tiles) // _COLUMNS)
    with canvas(_COLUMNS * _SIDE, rows * (_SIDE + 0.35)) as (figure, rendered):
        axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
        for axis in axes:
            axis.axis("off")
        for axis, (title, picture) in zip(axes, tiles, strict=False):
            axis.imshow(picture)
            axis.set_title(title, fontsize=7)
    return rendered()


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"

"""The picture on a model card: where the model looks in some test photos, beside its teacher."""

from pathlib import Path

import numpy as np
from PIL import Image

from attndistill.figures.attention import overlay, png_bytes
from attndistill.handover.models import Finished
from attndistill.results import StudentMaps, TeacherMaps
from attndistill.stages.layout import MODELS

NAME = "attention.png"
_PHOTOS, _TILE, _GAP = 6, 168, 6


def write_picture(directory: Path, finished: Finished) -> str:
    """Draw NAME from what the attention stage stored: photos, the teacher's maps, the model's. Returns what it shows.

    Nothing is drawn, and "" is returned, of a model whose maps nobody has stored.

    Raises:
        ValueError: a broken file of maps.
    """
    if finished.experiment is None:
        return ""
    layout, student = finished.experiment.layout, finished.name not in MODELS
    files = [layout.attention(name) / "maps.npz" for name in ("teacher", *([finished.name] if student else []))]
    if finished.name == "scratch" or not all(path.exists() for path in files):
        return ""
    teacher = TeacherMaps.read(files[0])
    kinds = [teacher.aggregated, *(StudentMaps.read(path).aggregated for path in files[1:])]
    chosen = np.argsort(~teacher.featured, kind="stable")[:_PHOTOS]  # those that the page shows, first
    canvas = Image.new("RGB", _size(len(chosen), 1 + len(kinds)), "white")
    for column, place in enumerate(chosen.tolist()):
        photo = teacher.images[place]
        tiles = [np.asarray(Image.fromarray(photo).resize((_TILE, _TILE), Image.Resampling.BICUBIC))]
        tiles += [overlay(photo, maps[place], tile=_TILE) for maps in kinds]
        for row, tile in enumerate(tiles):
            canvas.paste(Image.fromarray(tile), (column * (_TILE + _GAP), row * (_TILE + _GAP)))
    (directory / NAME).write_bytes(png_bytes(np.asarray(canvas)))
    lines = "the photos; where the teacher looks" + ("; where this model looks" if student else "")
    return f"{len(chosen)} test photos. From top to bottom: {lines} (its class token, last block, heads agreed)."


def _size(columns: int, rows: int) -> tuple[int, int]:
    return columns * (_TILE + _GAP) - _GAP, rows * (_TILE + _GAP) - _GAP

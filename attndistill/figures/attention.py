"""Attention panels (supplementary Figs 9-11): the image, the teacher's maps, and each student's maps below.

Every map is divided by its own maximum for display, so brightness tells where a head looks, and never how sharply one
map looks compared with another: that is what the KL figure beside a student is for. Composed with Pillow, not
Matplotlib, because the whole-split export writes hundreds of panels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from attndistill.figures.fonts import lettered

# S image side, H heads, gh x gw patches

COLORMAP = "inferno"  # perceptually uniform, readable by colour-blind people and in greyscale

_INK, _MUTED, _PAPER = (23, 26, 31), (96, 103, 112), (255, 255, 255)
_VEIL = 0.75  # of the map's colour at its maximum
_GAP = 6
_MARGIN = 12
_TITLE_HEIGHT = 24
_HEADING_HEIGHT = 18
_RAMP_WIDTH, _RAMP_HEIGHT = 72, 8


@dataclass(frozen=True)
class AttentionMaps:
    """Where one model looks in one image: class-token attention over the patches, the class token cut off.

    Attributes:
        name: printed beside the maps.
        aggregated: one map over all heads (AGGR).
        heads: one map per head.
        kl: KL(aggregated teacher || this model's aggregated map) in nats; None where it was not measured.

    Raises:
        ValueError: shapes that do not fit together, or entries that are negative or not finite.
    """

    name: str
    aggregated: Float[np.ndarray, "gh gw"]
    heads: Float[np.ndarray, "H gh gw"]
    kl: float | None = None

    def __post_init__(self) -> None:
        if self.heads.ndim != 3 or self.aggregated.ndim != 2 or self.heads.shape[1:] != self.aggregated.shape:
            raise ValueError(
                f"attention maps of {self.name!r}: aggregated {self.aggregated.shape} and heads {self.heads.shape} "
                "given, (gh, gw) and (H, gh, gw) allowed"
            )
        for maps in (self.aggregated, self.heads):
            if not np.isfinite(maps).all() or (maps < 0).any():
                raise ValueError(f"attention maps of {self.name!r} hold entries that are negative or not finite")


def attention_panel(
    image: UInt8[np.ndarray, "S S 3"],
    teacher: AttentionMaps,
    students: Sequence[AttentionMaps] = (),
    *,
    caption: str = "",
    tile: int = 112,
    interpolation: Literal["nearest", "bicubic"] = "nearest",
) -> UInt8[np.ndarray, "height width 3"]:
    """One image's panel: IMG, AGGR and every teacher head in the first line; a line below for each student.

    A student's line holds its name and 'KL 0.123' (nats, to the teacher's aggregated map) in the column of the image.
    Models may differ in heads and grids. Each map is divided by its own maximum for display.

    Args:
        image: what the models saw, not normalised.
        teacher: the first line.
        students: one line each; none, one, or as many methods as are compared.
        caption: the image's name or class, printed beside the teacher's name.
        tile: side of one map in pixels.
        interpolation: nearest shows the patches as they are; bicubic is for looks.

    Returns:
        The panel; `png_bytes` makes it a file.

    Raises:
        ValueError: an image that is not (S, S, 3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image of shape {image.shape} and type {image.dtype} given, (S, S, 3) uint8 allowed")
    lines = (teacher, *students)
    columns = 2 + max(len(line.heads) for line in lines)
    step = tile + _GAP
    top = _MARGIN + _TITLE_HEIGHT + _HEADING_HEIGHT
    size = (2 * _MARGIN + columns * step - _GAP, top + len(lines) * step - _GAP + _MARGIN)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    _title(canvas, draw, teacher, caption)
    headings = ["IMG", "AGGR", *(f"head {head + 1}" for head in range(columns - 2))]
    for column, heading in enumerate(headings):
        centre = _MARGIN + column * step + tile // 2
        draw.text((centre, top - 5), heading, _MUTED, _lettered(heading, 12)[1], anchor="ms")
    canvas.paste(Image.fromarray(image).resize((tile, tile), Image.Resampling.BICUBIC), (_MARGIN, top))
    for row, line in enumerate(lines):
        y = top + row * step
        if row:
            _student_label(draw, line, (_MARGIN, y), tile)
        for column, values in enumerate((line.aggregated, *line.heads), start=1):
            canvas.paste(_map_tile(values, tile, interpolation), (_MARGIN + column * step, y))
    return np.asarray(canvas)


def overlay(
    image: UInt8[np.ndarray, "S S 3"], attention: Float[np.ndarray, "gh gw"], *, tile: int = 168
) -> UInt8[np.ndarray, "tile tile 3"]:
    """A map laid over its photo: the colour of the map where it is strong, the photo in grey where it is weak.

    The map is divided by its own maximum, and smoothed: a patch is not seen as a square.
    """
    photo = Image.fromarray(image).resize((tile, tile), Image.Resampling.BICUBIC)
    grey = np.asarray(photo.convert("L").convert("RGB"), np.float32)
    peak = float(attention.max())
    strength = np.asarray(attention, np.float32) / peak if peak > 0 else np.zeros(attention.shape, np.float32)
    smooth = Image.fromarray(strength).resize((tile, tile), Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(smooth), 0, 1)
    share = (_VEIL * level)[..., None]
    mixed: NDArray[np.uint8] = np.rint((1 - share) * grey + share * _lookup()[_level(level)]).astype(np.uint8)
    return mixed


def jpeg_bytes(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A JPEG file's bytes, for photos of a page."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def png_bytes(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A PNG file's bytes: no time, no software tag. Compressed lightly, for bulk export."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _map_tile(values: NDArray[np.floating], tile: int, interpolation: str) -> Image.Image:
    peak = float(values.max())
    shown = np.asarray(values, np.float32) / peak if peak > 0 else np.zeros(values.shape, np.float32)
    if interpolation == "bicubic":
        smooth = Image.fromarray(shown).resize((tile, tile), Image.Resampling.BICUBIC)
        return Image.fromarray(_lookup()[_level(np.asarray(smooth))])
    return Image.fromarray(_lookup()[_level(shown)]).resize((tile, tile), Image.Resampling.NEAREST)


def _level(shown: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


@cache
def _lookup() -> NDArray[np.uint8]:
    colours: NDArray[np.uint8] = matplotlib.colormaps[COLORMAP](np.arange(256), bytes=True)[:, :3]
    return np.ascontiguousarray(colours)


_Lettered = tuple[str, ImageFont.FreeTypeFont]


def _lettered(text: str, size: int, *, bold: bool = False) -> _Lettered:
    """A line, and a font that has its letters."""
    drawable, path = lettered(text, bold=bold)
    return drawable, _font(path, size)


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)  # the same with and without raqm


def _title(canvas: Image.Image, draw: ImageDraw.ImageDraw, teacher: AttentionMaps, caption: str) -> None:
    """The teacher's name and the image's on the left, the colour ramp on the right."""
    baseline = _MARGIN + 13
    right = canvas.width - _MARGIN
    most, small = _lettered("max", 11)
    left = right - int(small.getlength(most)) - 4 - _RAMP_WIDTH
    ramp = np.broadcast_to(_lookup()[np.linspace(0, 255, _RAMP_WIDTH).astype(np.uint8)], (_RAMP_HEIGHT, _RAMP_WIDTH, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), (left, baseline - _RAMP_HEIGHT))
    draw.text((right, baseline), most, _MUTED, small, anchor="rs")
    draw.text((left - 4, baseline), "0", _MUTED, small, anchor="rs")
    room = left - 24 - _MARGIN
    name, bold = _lettered(teacher.name, 14, bold=True)
    name = _shortened(name, bold, room)
    draw.text((_MARGIN, baseline), name, _INK, bold, anchor="ls")
    taken = int(bold.getlength(name)) + 12
    if caption and taken + 40 < room:
        text, plain = _lettered(caption, 12)
        draw.text((_MARGIN + taken, baseline), _shortened(text, plain, room - taken), _MUTED, plain, anchor="ls")


def _student_label(draw: ImageDraw.ImageDraw, maps: AttentionMaps, corner: tuple[int, int], tile: int) -> None:
    """A student's name, its KL and its geometry, in the column of the image, centred vertically."""
    name, bold = _lettered(maps.name, 13, bold=True)
    lines = [(text, _INK, bold) for text in _wrapped(name, bold, tile - 4)]
    if maps.kl is not None:
        lines.append((f"KL {maps.kl:.3f}", _INK, _lettered("KL", 13)[1]))
    lines.append((f"{maps.aggregated.shape[0]}×{maps.aggregated.shape[1]} patches", _MUTED, _lettered("×", 11)[1]))
    height = 18
    y = corner[1] + (tile - height * len(lines)) // 2 + 13
    for text, colour, font in lines:
        draw.text((corner[0], y), text, colour, font, anchor="ls")
        y += height


def _wrapped(text: str, font: ImageFont.FreeTypeFont, room: int) -> list[str]:
    """At most three lines that fit `room`, broken at spaces; what is still too long is shortened."""
    lines: list[str] = []
    for word in text.split() or [""]:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = lines if len(lines) <= 3 else [*lines[:2], " ".join(lines[2:])]
    return [_shortened(line, font, room) for line in kept]


def _shortened(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"

"""Encoded image files to the RGB picture a viewer would show, or a reason why not. Untrusted bytes: nothing is assumed.

Decisions, where readers differ:
- EXIF orientation is applied (torchvision's ImageFolder does not).
- Transparency (alpha channel, transparent palette entry or colour key) is composited on white.
- 16-bit grey is scaled to 8 bits by 255/65535, never clipped; 32-bit and float pixels have no agreed scale: refused.
- CMYK is converted by Pillow's formula (as torchvision does), without its colour profile.
- More than one frame (GIF, APNG, WebP, TIFF) is refused. An MPO, a camera's JPEG with further pictures appended, is
  read as the JPEG it also is.
- The content must be what the extension says: a PNG named .jpg wants renaming.
- A JPEG whose data end before its picture does is refused, though a viewer shows it with a grey rest. JPEG has no
  checksum: other damage shows only where the decoder loses its place and runs out of data (`jpeg`). One wrong byte,
  or a stretch of them that decodes to as many blocks, passes. PNG has checksums, and they are held.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from attndistill.data.jpeg import padded

# Only these of Pillow's readers ever see the bytes (EPS, for one, would start an interpreter).
_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_BY_EXTENSION = {extension: name for name, extensions in _FORMATS.items() for extension in extensions}
_PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_ALPHA = ("LA", "PA", "RGBA")
_MOST_BYTES_PER_PIXEL = 16
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


class BadImageError(ValueError):
    """An image that cannot be used; the message is the reason, without the path."""


def check_name(name: str) -> None:
    """Raise BadImageError unless `name` can stand on a line of a UTF-8 file and ends like an image."""
    if name.splitlines() != [name] or not name.isprintable():
        raise BadImageError("the file name has unprintable characters")
    if PurePosixPath(name).suffix.lower() not in _BY_EXTENSION:
        raise BadImageError(f"the extension is none of {' '.join(_BY_EXTENSION)}")


def most_bytes(max_pixels: int) -> int:
    """A file longer than this cannot be a sensible image of `max_pixels`: refused unread."""
    return max_pixels * _MOST_BYTES_PER_PIXEL + 2**20


def inspect(data: bytes, name: str, max_pixels: int) -> tuple[int, int]:
    """Decode an untrusted image file completely, once.

    Args:
        data: the file.
        name: its name; the extension must fit the content.
        max_pixels: more are refused from the header, before anything is allocated.

    Returns:
        Height and width of the upright picture.

    Raises:
        BadImageError: saying why.
    """
    if not data:
        raise BadImageError("zero bytes")
    try:
        header = _check_header(data, name, max_pixels)
        if header.is_jpeg:
            _check_whole(data, header.mode)
        else:
            decode(data)
    except BadImageError:
        raise
    except Exception as error:  # whatever a decoder trips over in hostile bytes is a reason, never a crash
        raise BadImageError(f"cannot be decoded ({str(error) or type(error).__name__})") from error
    return header.height, header.width


def decode(data: bytes, *, eighth: bool = False) -> Image.Image:
    """The upright RGB picture in an image file that `inspect` has passed.

    Args:
        data: the file.
        eighth: a JPEG at an eighth of its sides, from the mean of each block: everything is read, less is computed.
    """
    with _open(data) as image:
        if eighth:
            image.draft(image.mode, (1, 1))
        image.load()
        is_16_bit = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image, is_16_bit)


def _open(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data), formats=tuple(_FORMATS))


def _check_whole(data: bytes, mode: str) -> None:
    """Decode a JPEG, and refuse one whose data end before its picture does (see `jpeg`)."""
    extended = padded(data)
    small = not extended.in_detail
    picture = decode(data, eighth=small)
    if extended.ends_grey and mode in ("L", "RGB") and not _has_grey_corner(picture):
        return
    if picture.tobytes() != decode(extended.data, eighth=small).tobytes():
        raise BadImageError("the data end before the picture does: the rest would be grey")


def _has_grey_corner(picture: Image.Image) -> bool:
    """Whether it may end in a block without data; in which corner an upright picture ends, its camera decides."""
    right, bottom = picture.width - 1, picture.height - 1
    corners = ((right, bottom), (0, bottom), (right, 0), (0, 0))
    return any(picture.getpixel(corner) == (128, 128, 128) for corner in corners)


@dataclass(frozen=True)
class _Header:
    """What is known before anything is decoded; the sides are the upright picture's."""

    is_jpeg: bool
    mode: str
    height: int
    width: int


def _check_header(data: bytes, name: str, max_pixels: int) -> _Header:
    try:
        image = _open(data)
    except UnidentifiedImageError:
        raise BadImageError("no image format is recognised in it") from None
    except Image.DecompressionBombError as error:
        raise BadImageError(f"too many pixels: {error}") from None
    with image:
        if image.width * image.height > max_pixels:
            raise BadImageError(f"{image.width} x {image.height} pixels are more than the {max_pixels} allowed")
        found = "JPEG" if image.format == "MPO" else str(image.format)
        if found != _BY_EXTENSION[PurePosixPath(name).suffix.lower()]:
            raise BadImageError(
                f"the content is {found}, not what the extension says (rename it: {_FORMATS[found][0]})"
            )
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise BadImageError(f"{getattr(image, 'n_frames', 1)} frames: animated or many-paged")
        sides = image.size if image.getexif().get(_ORIENTATION) in _TURNED else image.size[::-1]
        return _Header(found == "JPEG", image.mode, *sides)


def _rgb(image: Image.Image, is_16_bit: bool) -> Image.Image:
    if image.mode in _ALPHA or (image.mode in _PLAIN and "transparency" in image.info):
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    if image.mode in _PLAIN:
        return image if image.mode == "RGB" else image.convert("RGB")
    if is_16_bit and "transparency" not in image.info:
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    raise BadImageError(f"pixels of mode {image.mode} have no agreed way to be shown in 8 bits")

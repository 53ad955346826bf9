"""Encoded image files to the RGB picture a viewer would show, or a reason why not. Untrusted bytes: nothing is assumed.

Decisions, where readers differ:
- EXIF orientation is applied (torchvision's ImageFolder does not).
- Transparency (alpha channel, transparent palette entry or colour key) is composited on white.
- 16-bit grey is scaled to 8 bits by 255/65535, never clipped; 32-bit and float pixels have no agreed scale: refused.
- CMYK is converted by Pillow's formula (as torchvision does), without its colour profile.
- More than one frame (GIF, APNG, WebP, TIFF) is refused. An MPO, a camera's JPEG with further pictures appended, is
  read as the JPEG it also is.
- The content decides, whatever image's extension the name has (ImageNet-1K has a PNG named .JPEG).
- Memory is bounded: pixels are counted before anything is decoded, other modes become RGB in bands, and large pictures
  are decoded one at a time.
- A JPEG whose data end before its picture does is refused, though a viewer shows it with a grey rest. JPEG has no
  checksum: other damage shows only where the decoder loses its place and runs out of data (`jpeg`). One wrong byte,
  or a stretch of them that decodes to as many blocks, passes. PNG has checksums, and they are held.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from threading import Lock

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from attndistill.core.reading import machine_fault
from attndistill.core.words import breaks_lines, shown
from attndistill.data.jpeg import padded, without_metadata

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
_MOST_BYTES_PER_PIXEL, _BESIDE = 8, 2**24  # in a file; and what may lie beside the pixels
_MOST_PARTS, _PART = 100_000, 2**10
_BYTES_PER_PIXEL = 8  # that decoding takes, at most
_LARGE = 2**23  # pixels
_BAND = 2**20  # pixels
_one_at_a_time = Lock()
_COLOURS = ("Gray", "YCbCr", "RGB")  # of a JPEG that Pillow reads as L or RGB
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


class BadImageError(ValueError):
    """An image that cannot be used; the message is the reason, without the path."""


@dataclass(frozen=True)
class Inspected:
    """An image file that can be used: sides of the upright picture, and the format of the content."""

    height: int
    width: int
    format: str


def check_name(name: str) -> None:
    """Raise BadImageError unless `name` can stand on a line of a UTF-8 file and ends like an image."""
    if breaks_lines(name):
        raise BadImageError("the file name has control characters, line separators or bytes that are no UTF-8")
    if PurePosixPath(name).suffix.lower() not in _BY_EXTENSION:
        raise BadImageError(f"the extension is none of {' '.join(_BY_EXTENSION)}")


def other_format(name: str, inspected: Inspected) -> str | None:
    """The format of the content where the name says another one."""
    return None if _BY_EXTENSION[PurePosixPath(name).suffix.lower()] == inspected.format else inspected.format


def most_bytes(max_pixels: int) -> int:
    """A file longer than this cannot be a sensible image of `max_pixels`: refused unread."""
    return max_pixels * _MOST_BYTES_PER_PIXEL + _BESIDE


def inspect(data: bytes, max_pixels: int) -> Inspected:
    """Decode an untrusted image file completely, once.

    Args:
        data: the file.
        max_pixels: more are refused from the header, before anything is allocated.

    Raises:
        BadImageError: saying why.
        MemoryError: the machine has too little; the picture may be good.
    """
    if not data:
        raise BadImageError("zero bytes")
    pixels = 0
    try:
        header = _check_header(data, max_pixels)
        pixels = header.pixels
        with _one_at_a_time if pixels > _LARGE else nullcontext():
            if header.inspected.format == "JPEG":
                _check_whole(data, header)
            else:
                decode(data)
    except BadImageError:
        raise
    except Exception as error:  # whatever a decoder trips over in hostile bytes is a reason, never a crash
        if machine_fault(error):
            raise
        bytearray(pixels * _BYTES_PER_PIXEL)  # some decoders do not say what they lacked: is the memory there?
        raise BadImageError(f"cannot be decoded ({shown(error) or type(error).__name__})") from error
    return header.inspected


def decode(data: bytes, *, shrink: int = 1) -> Image.Image:
    """The upright RGB picture in an image file that `inspect` has passed.

    Args:
        data: the file.
        shrink: 2, 4, 8: a JPEG at this part of its sides (rounded up), from the lower frequencies of each block:
            everything is read, less is computed. Other formats are not shrunk.
    """
    with _open(data) as image:
        if shrink > 1:
            image.draft(image.mode, (max(1, image.width // shrink), max(1, image.height // shrink)))
        image.load()
        is_16_bit = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image, is_16_bit)


def decoded(data: bytes, shrink: int = 1) -> tuple[NDArray[np.uint8], int]:
    """`decode`'s picture as (H, W, 3), to the bit but of a plain JPEG sooner, and by what its sides are shrunk.

    Both decoders are libjpeg-turbo (a test holds their pixels equal); simplejpeg's writes no fourth byte per pixel.
    What it finds fault with is Pillow's to judge.
    """
    if without_metadata(data):
        with suppress(ValueError):
            *sides, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in _COLOURS:
                return _simply(data, sides, shrink), shrink
    with _open(data) as image:
        is_jpeg = image.format in ("JPEG", "MPO")
        shrunk = shrink if is_jpeg else 1
        if is_jpeg and image.mode in ("L", "RGB") and image.getexif().get(_ORIENTATION, 1) == 1:
            with suppress(ValueError):
                return _simply(data, image.size[::-1], shrunk), shrunk
    return np.asarray(decode(data, shrink=shrunk)), shrunk


def _simply(data: bytes, sides: Sequence[int], shrink: int) -> NDArray[np.uint8]:
    """A JPEG as it is stored. Raises ValueError for whatever simplejpeg finds fault with."""
    height, width = (-(-side // shrink) for side in sides)
    picture: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "RGB", min_height=height, min_width=width, min_factor=shrink
    )
    return picture


def upright_sides(data: bytes) -> tuple[int, int]:
    """Height and width of the picture in such a file, by its header."""
    with _open(data) as image:
        return _sides(image)


def _sides(image: Image.Image) -> tuple[int, int]:
    turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED  # Pillow has turned a TIFF's
    width, height = image.size[::-1] if turned else image.size
    return height, width


class _Counted(BytesIO):
    """A file that ends who reads it in endless small parts: a PNG of a million chunks, a JPEG of a million markers."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MOST_PARTS + len(data) // _PART

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise BadImageError("it is in more parts than a picture")
        return super().read(size)


def _open(data: bytes) -> Image.Image:
    return Image.open(_Counted(data), formats=tuple(_FORMATS))


def _check_whole(data: bytes, header: "_Header") -> None:
    """Decode a JPEG, and refuse one whose data end before its picture does (see `jpeg`)."""
    extended = padded(data, -(-header.inspected.height // 8) * -(-header.inspected.width // 8))
    shrink = 1 if extended.in_detail else 8
    picture = decode(data, shrink=shrink)
    if extended.ends_grey and header.mode in ("L", "RGB") and not _has_grey_corner(picture):
        return
    found = _digest(picture)
    del picture
    if found != _digest(decode(extended.data, shrink=shrink)):
        raise BadImageError("the data end before the picture does: the rest would be grey")


def _digest(picture: Image.Image) -> bytes:
    digest = hashlib.blake2b()
    for _, band in _bands(picture):
        digest.update(band.tobytes())
    return digest.digest()


def _has_grey_corner(picture: Image.Image) -> bool:
    """Whether it may end in a block without data; in which corner an upright picture ends, its camera decides."""
    right, bottom = picture.width - 1, picture.height - 1
    corners = ((right, bottom), (0, bottom), (right, 0), (0, 0))
    return any(picture.getpixel(corner) == (128, 128, 128) for corner in corners)


@dataclass(frozen=True)
class _Header:
    """What is known before anything is decoded."""

    inspected: Inspected
    mode: str
    pixels: int


def _check_header(data: bytes, max_pixels: int) -> _Header:
    try:
        image = _open(data)
    except UnidentifiedImageError:
        raise BadImageError("no image format is recognised in it") from None
    except Image.DecompressionBombError as error:
        raise BadImageError(f"too many pixels: {error}") from None
    with image:
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise BadImageError(f"{image.width} x {image.height} pixels are more than the {max_pixels} allowed")
        if len(data) > _MOST_BYTES_PER_PIXEL * pixels + _BESIDE:
            raise BadImageError(f"{len(data)} bytes are too many for {image.width} x {image.height} pixels")
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise BadImageError("more than one frame: animated or many-paged")
        height, width = _sides(image)
        found = "JPEG" if image.format == "MPO" else str(image.format)
        return _Header(Inspected(height, width, found), image.mode, pixels)


def _rgb(image: Image.Image, is_16_bit: bool) -> Image.Image:
    if image.mode in _ALPHA or (image.mode in _PLAIN and "transparency" in image.info):
        show = _on_white
    elif image.mode in _PLAIN:
        return image if image.mode == "RGB" else image.convert("RGB")
    elif is_16_bit and "transparency" not in image.info:
        show = _in_8_bits
    else:
        raise BadImageError(f"pixels of mode {image.mode} have no agreed way to be shown in 8 bits")
    picture = Image.new("RGB", image.size)
    for top, band in _bands(image):
        picture.paste(show(band), (0, top))
    return picture


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(first row, rows) of a picture, a million pixels or so at a time."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _on_white(band: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", band.size, "white"), band.convert("RGBA")).convert("RGB")


def _in_8_bits(band: Image.Image) -> Image.Image:
    grey = np.asarray(band).astype(np.uint32)
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")

"""Image files of any folder as a set, read where they lie: nothing is prepared, copied or kept."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from attndistill.core.reading import machine_fault, read_bounded
from attndistill.core.words import shown
from attndistill.data.decoding import BadImageError, check_name, decoded, inspect, most_bytes, upright_sides
from attndistill.data.image_tree import every_file
from attndistill.data.shards import EncodedImages

Found = TypeVar("Found")


class FileImages(EncodedImages):
    """Every image below a folder, or one image file. Files that are not called images are left out, and counted.

    Args:
        place: the folder, or the file.
        max_pixels: an image with more is refused.
        skip_bad: leave out images that cannot be decoded (each is then decoded twice) in place of refusing them.
        note: told what is left out, in one line.

    Raises:
        ValueError: no such place, or nothing in it that is called an image; later, an image that cannot be decoded.
    """

    def __init__(
        self, place: Path, *, max_pixels: int, skip_bad: bool = False, note: Callable[[str], object] = print
    ) -> None:
        if not place.exists():
            raise ValueError(f"{shown(place)} does not exist; allowed: a folder of images, or an image")
        self.root, self.max_pixels = (place, max_pixels) if place.is_dir() else (place.parent, max_pixels)
        every = every_file(place, []) if place.is_dir() else [place.name]
        called = [name for name in every if _is_called_an_image(name)]
        kept = [name for name in called if not skip_bad or self._is_good(name)]
        if not kept:
            raise ValueError(f"{shown(place)} has no images; allowed: a folder with image files in it, or an image")
        if len(kept) < len(every):
            left = next(name for name in every if name not in set(kept))
            note(f"{len(every) - len(kept)} of {len(every)} files left out: no images ({shown(left)})")
        self.names = kept
        self.labels = np.zeros(len(kept), np.int64)

    def sizes(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Heights and widths of the upright pictures, in pixels."""
        sides = np.array([self._read(int(index), upright_sides) for index in indices], np.int64).reshape(-1, 2)
        return sides[:, 0], sides[:, 1]

    def _picture(self, index: int, shrink: int) -> tuple[NDArray[np.uint8], int]:
        def whole(data: bytes) -> tuple[NDArray[np.uint8], int]:
            inspect(data, self.max_pixels)
            return decoded(data, shrink)

        return self._read(index, whole)

    def _read(self, index: int, read: Callable[[bytes], Found]) -> Found:
        path = self.root / self.names[index]
        try:
            return read(read_bounded(path, at_most=most_bytes(self.max_pixels)))
        except (ValueError, OSError, SyntaxError) as error:  # Pillow raises all three for broken headers
            if machine_fault(error):
                raise
            unknown = isinstance(error, UnidentifiedImageError)  # whose own words name an object of ours
            why = "no image format is recognised in it" if unknown else str(error).removeprefix(str(path)).lstrip(" :")
            advice = "--data.on_bad_image skip leaves such files out"
            raise ValueError(f"{shown(path)}: {shown(why)}; {advice}") from None

    def _is_good(self, name: str) -> bool:
        try:
            inspect(read_bounded(self.root / name, at_most=most_bytes(self.max_pixels)), self.max_pixels)
        except (ValueError, OSError) as error:
            if machine_fault(error):
                raise
            return False
        return True


def _is_called_an_image(name: str) -> bool:
    try:
        check_name(name)
    except BadImageError:
        return False
    return True

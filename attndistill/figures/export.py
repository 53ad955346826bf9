"""The layout of the supplementary's attn_vis.zip: a folder per class, a PNG per image.

Image and class names come from data sets and may hold anything; file names made from them never leave the folder.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from unicodedata import category, normalize

import numpy as np
from jaxtyping import UInt8

from attndistill.core.artifacts import replacing_directory
from attndistill.core.words import shown
from attndistill.figures.attention import png_bytes

_LONGEST = 120  # bytes; file systems allow 255


def safe_names(names: Sequence[str]) -> list[str]:
    """File names (without suffix) for `names`: letters and digits of every script, '.', '_', '-', no dot in front.

    Where two names would become one file, also on a file system that ignores case or the spelling of accents, each
    carries the start of its SHA-256. The result does not depend on the order of `names`.

    Raises:
        ValueError: a name that is given twice.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"image name {shown(twice[0])!r} given more than once, distinct names allowed")
    cleaned = [_cleaned(name) for name in names]
    safe = cleaned
    for digits in (8, 64):  # 64: a name may look like another one's with 8
        sharing = Counter(name.casefold() for name in safe)
        safe = [
            short if sharing[short.casefold()] == 1 else f"{plain}-{_sha256(name)[:digits]}"
            for name, plain, short in zip(names, cleaned, safe, strict=True)
        ]
    return safe


def _cleaned(name: str) -> str:
    kept = "".join(one if one in "._-" or category(one)[0] in "LMN" else " " for one in normalize("NFC", name))
    plain = re.sub(" +", "_", kept).lstrip(".").encode()[:_LONGEST].decode(errors="ignore")
    return plain or "unnamed"


def _sha256(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def export_by_class(
    directory: Path,
    classes: Sequence[str],
    names: Sequence[str],
    panel: Callable[[int], UInt8[np.ndarray, "height width 3"]],
) -> list[Path]:
    """Write `directory`/<class>/<image name>.png for every image; `directory` is replaced as a whole.

    Args:
        directory: becomes the folder of class folders.
        classes: the class of each image.
        names: the name of each image, distinct within its class.
        panel: draws the picture of image i; called once per image, in order, so that one panel is held at a time.

    Returns:
        The files, in the order of `names`.

    Raises:
        ValueError: as many classes as names are needed; a name is given twice within a class.
    """
    if len(classes) != len(names):
        raise ValueError(f"{len(classes)} classes and {len(names)} names given, one class for each name allowed")
    distinct = sorted(set(classes))
    folders = dict(zip(distinct, safe_names(distinct), strict=True))
    members = {wanted: [i for i, given in enumerate(classes) if given == wanted] for wanted in distinct}
    places: dict[int, Path] = {}
    for wanted, indices in members.items():
        for index, safe in zip(indices, safe_names([names[i] for i in indices]), strict=True):
            places[index] = Path(folders[wanted]) / f"{safe}.png"
    with replacing_directory(directory) as beside:
        for folder in folders.values():
            (beside / folder).mkdir()
        for index in range(len(names)):
            (beside / places[index]).write_bytes(png_bytes(panel(index)))
    return [directory / places[index] for index in range(len(names))]

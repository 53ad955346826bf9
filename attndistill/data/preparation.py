"""`prepare`: from a source to the stored form every later stage opens, a handful of images in memory at a time.

The manifest holds no time and no path of this machine, so equal content gives equal files, byte for byte.
"""

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import DecompressionBombWarning

from attndistill.core.artifacts import digest_of, replacing_directory, write_json
from attndistill.data.arrays import read_array
from attndistill.data.decoding import BadImageError, check_name, inspect, most_bytes
from attndistill.data.shards import ShardWriter
from attndistill.data.sources import ArraySplit, FileSplit, Source, Split, class_list_digest
from attndistill.data.splits import stratified_subset
from attndistill.data.store import FORMAT

Progress = Callable[[str, int, int], None]
"""Called with (split, images done, images in all) after each image."""

BadImagePolicy = Literal["error", "skip"]

_NAMED = 20  # bad images spelled out in an error


def silent(split: str, done: int, total: int) -> None:
    """No progress report."""


@dataclass(frozen=True)
class _Bad:
    """An image that cannot be used."""

    split: str
    name: str
    path: Path
    reason: str


def prepare(
    source: Source,
    destination: Path,
    *,
    validation_fraction: float,
    split_seed: int,
    on_bad_image: BadImagePolicy = "error",
    max_pixels: int = 89_478_485,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the stored form of `source` to `destination`, whole or not at all.

    Args:
        source: what `open_source` returned.
        destination: directory to write; an earlier one is replaced.
        validation_fraction: share of every training class in train-validation.npy, on which k and C are chosen.
        split_seed: key of that choice.
        on_bad_image: "error" refuses the data set, naming the bad images; "skip" leaves them out, and lists them.
        max_pixels: an image with more pixels is bad (a decompression bomb); Pillow refuses twice the default anyway.
        workers: threads that read and decode image files (None: one a processor). Changes nothing but speed.
        progress: called after each image.

    Returns:
        The manifest, as written to manifest.json.

    Raises:
        ValueError: bad images under "error"; a class without images in a split; fewer than two classes; a validation
            fraction outside (0, 1).
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation fraction {validation_fraction} is not allowed; it must lie between 0 and 1")
    _check_classes(source, {name: split.labels for name, split in source.splits.items()})
    threads = workers or os.cpu_count() or 1
    bad: list[_Bad] = []
    with replacing_directory(destination) as directory:
        splits = {}
        for name, split in source.splits.items():
            kept, images = _write_images(split, directory, name, max_pixels, threads, bad, progress)
            splits[name] = _write_labels(kept, directory, name, source.class_names) | images
        if bad and on_bad_image == "error":
            raise ValueError(_message(bad))
        _check_classes(source, {name: read_array(directory / f"{name}-labels.npy") for name in splits})
        manifest = {
            "format": FORMAT,
            "dataset": source.dataset,
            "options": dict(source.options),
            "container": "shards" if isinstance(source.splits["train"], FileSplit) else "arrays",
            "class_names": list(source.class_names),
            "class_list_sha256": class_list_digest(source.class_names),
            **({"left_out_classes": list(source.left_out)} if source.left_out else {}),
            "splits": splits,
            "bad_images": {
                "policy": on_bad_image,
                "count": len(bad),
                "skipped": [{"split": one.split, "name": one.name, "reason": one.reason} for one in bad],
            },
            "validation": _write_validation(directory, validation_fraction, split_seed),
            "digest": digest_of([list(source.class_names), splits]),
        }
        write_json(directory / "manifest.json", manifest)
    return manifest


def _write_images(
    split: Split, directory: Path, name: str, max_pixels: int, workers: int, bad: list[_Bad], progress: Progress
) -> tuple[Split, dict[str, Any]]:
    """The images of one split into their container; what was kept, and what the manifest says of it."""
    total = len(split.labels)
    if isinstance(split, ArraySplit):
        return split, _write_array(split, directory / f"{name}-images.npy", lambda done: progress(name, done, total))
    bad += [_bad(name, split, image, "it lies in no class folder") for image in split.loose]
    writer, kept = ShardWriter(directory, name), []
    for position, result in enumerate(_inspected(split, max_pixels, workers)):
        if isinstance(result, BadImageError):
            bad.append(_bad(name, split, split.names[position], str(result)))
        else:
            writer.add(*result)
            kept.append(position)
        progress(name, position + 1, total)
    return split.subset(np.array(kept, dtype=np.int64)), writer.finish()


def _bad(name: str, split: FileSplit, image: str, reason: str) -> _Bad:
    shown = image if image.isprintable() else ascii(image)[1:-1]
    return _Bad(name, shown, split.root / shown, reason)


_File = tuple[bytes, int, int]


def _inspected(split: FileSplit, max_pixels: int, workers: int) -> Iterator[_File | BadImageError]:
    """(content, height, width) of each file, in order; at most a few files a worker are in memory."""

    def read(name: str) -> _File | BadImageError:
        try:
            check_name(name)
            data = _content(split.root / name, max_pixels)
            return data, *inspect(data, name, max_pixels)
        except BadImageError as error:
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore", DecompressionBombWarning)  # max_pixels decides
        pending: deque[Future[_File | BadImageError]] = deque()
        for name in split.names:
            pending.append(pool.submit(read, name))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _content(path: Path, max_pixels: int) -> bytes:
    try:
        if not path.is_file():
            raise BadImageError("not a regular file (or a broken link)")
        if path.stat().st_size > most_bytes(max_pixels):
            raise BadImageError(f"{path.stat().st_size} bytes are too many for {max_pixels} pixels")
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None


def _write_array(split: ArraySplit, path: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """Append image after image to one .npy file, so that nothing but the current image is in memory."""
    shape = split.image(0).shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(split.labels), *shape)}
    digest = hashlib.sha256()
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for position in range(len(split.labels)):
            image = split.image(position)
            if image.shape != shape:
                raise ValueError(f"image {split.names[position]} is {image.shape}; the others are {shape}")
            file.write(image.tobytes())
            digest.update(image.tobytes())
            progress(position + 1)
    return {"images_sha256": digest.hexdigest(), "image_shape": list(shape)}


def _write_labels(split: Split, directory: Path, name: str, class_names: tuple[str, ...]) -> dict[str, Any]:
    np.save(directory / f"{name}-labels.npy", split.labels)
    names = "".join(f"{image}\n" for image in split.names).encode()
    (directory / f"{name}-names.txt").write_bytes(names)
    counts = np.bincount(split.labels, minlength=len(class_names)).tolist()
    return {
        "count": len(split.labels),
        "per_class": dict(zip(class_names, counts, strict=True)),
        "labels_sha256": hashlib.sha256(split.labels.astype("<i8").tobytes()).hexdigest(),
        "names_sha256": hashlib.sha256(names).hexdigest(),
    }


def _check_classes(source: Source, labels: dict[str, NDArray[np.int64]]) -> None:
    """Every class has an image in every split, and there is something to tell apart."""
    if len(source.class_names) < 2:
        raise ValueError(f"the data set has the single class {source.class_names[0]!r}; at least two are wanted")
    counts = {split: np.bincount(of, minlength=len(source.class_names)) for split, of in labels.items()}
    for position, class_name in enumerate(source.class_names):
        without = [split for split, count in counts.items() if not count[position]]
        if without:
            has = [split for split in counts if split not in without]
            where = f"images in {has[0]} but none in {without[0]}" if has else "no images"
            raise ValueError(f"class {class_name!r} has {where}; add some, or leave the class out by a class_list")


def _message(bad: list[_Bad]) -> str:
    lines = [f"  {one.path}: {one.reason}" for one in bad[:_NAMED]]
    more = [f"  and {len(bad) - _NAMED} more"] if len(bad) > _NAMED else []
    return "\n".join([f"{len(bad)} bad images (on_bad_image: skip would leave them out):", *lines, *more])


def _write_validation(directory: Path, fraction: float, seed: int) -> dict[str, Any]:
    labels: NDArray[np.int64] = read_array(directory / "train-labels.npy")
    chosen = stratified_subset(labels, fraction, seed, "validation", leave_one=True)
    np.save(directory / "train-validation.npy", chosen)
    return {"fraction": fraction, "seed": seed, "count": len(chosen)}

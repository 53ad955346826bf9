"""`prepare`: from a source to the stored form every later stage opens, one image in memory at a time.

The manifest holds no time and no path of this machine, so equal content gives equal files, byte for byte.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attndistill.core.artifacts import digest_of, replacing_directory, write_json
from attndistill.data.sources import ArraySplit, Source, Split, class_list_digest
from attndistill.data.splits import stratified_subset
from attndistill.data.store import FORMAT

Progress = Callable[[str, int, int], None]
"""Called with (split, images done, images in all)."""

BadImagePolicy = Literal["error", "skip"]


def silent(split: str, done: int, total: int) -> None:
    """No progress report."""


def prepare(
    source: Source,
    destination: Path,
    *,
    validation_fraction: float,
    split_seed: int,
    on_bad_image: BadImagePolicy = "error",
    max_pixels: int = 89_478_485,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the stored form of `source` to `destination`, whole or not at all.

    Args:
        source: what `open_source` returned.
        destination: directory to write; an earlier one is replaced.
        validation_fraction: share of every training class in train-validation.npy, on which k and C are chosen.
        split_seed: key of that choice.
        on_bad_image: "error" refuses the data set, naming the bad images; "skip" leaves them out, and lists them.
        max_pixels: an image with more pixels is bad (a decompression bomb).
        progress: called now and then.

    Returns:
        The manifest, as written to manifest.json.

    Raises:
        ValueError: bad images under "error"; a class without images in a split; fewer than two classes.
    """
    with replacing_directory(destination) as directory:
        splits = {}
        for name, split in source.splits.items():
            splits[name] = _write_split(split, directory, name, source.class_names, progress)
        _check_classes({name: part["per_class"] for name, part in splits.items()})
        manifest = {
            "format": FORMAT,
            "dataset": source.dataset,
            "options": dict(source.options),
            "container": "arrays",
            "class_names": list(source.class_names),
            "class_list_sha256": class_list_digest(source.class_names),
            "splits": splits,
            "bad_images": {"policy": on_bad_image, "count": 0, "skipped": []},
            "validation": _write_validation(directory, validation_fraction, split_seed),
            "digest": digest_of([list(source.class_names), splits]),
        }
        write_json(directory / "manifest.json", manifest)
    return manifest


def _write_split(
    split: Split, directory: Path, name: str, class_names: Sequence[str], progress: Progress
) -> dict[str, Any]:
    assert isinstance(split, ArraySplit)
    images = _write_array(split, directory / f"{name}-images.npy", lambda done: progress(name, done, len(split.labels)))
    np.save(directory / f"{name}-labels.npy", split.labels)
    (directory / f"{name}-names.txt").write_text("".join(f"{n}\n" for n in split.names), encoding="utf-8")
    counts = np.bincount(split.labels, minlength=len(class_names))
    return {
        "count": len(split.labels),
        "per_class": {class_name: int(count) for class_name, count in zip(class_names, counts, strict=True)},
        "labels_sha256": hashlib.sha256(split.labels.astype("<i8").tobytes()).hexdigest(),
        "names_sha256": hashlib.sha256("\n".join(split.names).encode()).hexdigest(),
        **images,
    }


def _write_array(split: ArraySplit, path: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """Append image after image to one .npy file, so that nothing but the current image is in memory."""
    if not len(split.labels):
        raise ValueError("a split of the data set holds no images")
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


def _check_classes(per_class: dict[str, dict[str, int]]) -> None:
    for split, counts in per_class.items():
        empty = [name for name, count in counts.items() if not count]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(counts)} classes have no image in the {split} split: {', '.join(empty[:5])}"
            )
        if len(counts) < 2:
            raise ValueError(
                f"the data set has a single class, {next(iter(counts), 'none')!r}; at least two are wanted"
            )


def _write_validation(directory: Path, fraction: float, seed: int) -> dict[str, Any]:
    labels: NDArray[np.int64] = np.load(directory / "train-labels.npy", allow_pickle=False)
    chosen = stratified_subset(labels, fraction, seed, "validation", leave_one=True)
    np.save(directory / "train-validation.npy", chosen)
    return {"fraction": fraction, "seed": seed, "count": len(chosen)}

"""`prepare`: from a source to the stored form every later stage opens, a handful of images in memory at a time."""

import errno
import hashlib
import os
import unicodedata
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import DecompressionBombWarning

from attndistill.core.artifacts import replacing_directory
from attndistill.core.reading import machine_fault, read_bounded
from attndistill.core.words import breaks_lines, shown, spelled
from attndistill.data.decoding import BadImageError, Inspected, check_name, inspect, most_bytes, other_format
from attndistill.data.manifest import (
    FORMAT,
    BadImages,
    LeftAside,
    Manifest,
    OtherFormat,
    Skipped,
    SplitEntry,
    Validation,
    content_digest,
)
from attndistill.data.shard_writer import ShardWriter
from attndistill.data.sources import ArraySplit, FileSplit, Source, Split, class_list_digest
from attndistill.data.splits import stratified_subset

Progress = Callable[[str, int, int], None]
"""Called with (split, images done, images in all) after each image."""

BadImagePolicy = Literal["error", "skip"]

_NAMED = 20  # bad images spelled out in an error
_LISTED, _LONGEST = 100, 4096  # names left aside, letters of a name: in the manifest


def silent(split: str, done: int, total: int) -> None:
    """No progress report."""


@dataclass
class _Notes:
    """What is said of files: those that cannot be used, with path and reason, and those of another format."""

    bad: list[tuple[Path, Skipped]]
    other_formats: list[OtherFormat]

    def refuse(self, split: str, files: FileSplit, image: str, reason: str) -> None:
        self.bad.append((files.root / image, Skipped(split=split, name=shown(image, _LONGEST), reason=reason)))


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
        ValueError: bad images under "error"; what `check_judgeable` refuses; a validation fraction outside (0, 1).
        OSError: the machine failed (memory, handles, disk), whatever the policy.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation fraction {validation_fraction} is not allowed; it must lie between 0 and 1")
    _check_class_names(source.class_names)
    _check_labels(source, {name: split.labels for name, split in source.splits.items()})
    threads = workers or os.cpu_count() or 1
    notes = _Notes([], [])
    with replacing_directory(destination) as directory:
        splits, labels = {}, {}
        for name, split in source.splits.items():
            kept, images = _write_images(split, directory, name, max_pixels, threads, notes, progress)
            labels[name] = kept.labels
            splits[name] = _write_labels(kept, directory, name, source.class_names) | images
        if notes.bad and on_bad_image == "error":
            raise ValueError(_message(notes.bad))
        _check_labels(source, labels)
        chosen = stratified_subset(labels["train"], validation_fraction, split_seed, "validation", leave_one=True)
        np.save(directory / "train-validation.npy", chosen)
        return Manifest(
            format=FORMAT,
            dataset=source.dataset,
            options=dict(source.options),
            container="shards" if isinstance(source.splits["train"], FileSplit) else "arrays",
            class_names=list(source.class_names),
            class_list_sha256=class_list_digest(source.class_names),
            labelled=None if source.labelled else False,
            left_out_classes=list(source.left_out) or None,
            left_aside=_left_aside(source),
            other_formats=notes.other_formats or None,
            splits={name: SplitEntry(**entry) for name, entry in splits.items()},
            bad_images=BadImages(policy=on_bad_image, count=len(notes.bad), skipped=[one for _, one in notes.bad]),
            validation=Validation(fraction=validation_fraction, seed=split_seed, count=len(chosen)),
            digest=content_digest(list(source.class_names), splits),
        ).write(directory)


def _check_labels(source: Source, labels: Mapping[str, NDArray[np.int64]]) -> None:
    """What a data set must have to be used at all: labels that judge, or enough images where there are none."""
    if source.labelled:
        check_judgeable(source.class_names, labels)
    elif len(labels["train"]) < 2 or not len(labels["test"]):
        counts = ", ".join(f"{len(of)} {name}" for name, of in labels.items())
        raise ValueError(f"too few usable images ({counts}); allowed: 2 train and 1 test, or more")


def check_judgeable(class_names: Sequence[str], labels: Mapping[str, NDArray[np.int64] | None]) -> None:
    """What labels must be for a model to be judged by them: known from the data alone, so refused before training.

    Args:
        class_names: what the labels mean.
        labels: those of each split; None for one without labels, which nothing is asked of.

    Raises:
        ValueError: fewer than two classes; a class without images in a split; a train split of whose classes none has
            an image to spare for validation.
    """
    labelled = {split: of for split, of in labels.items() if of is not None}
    if not labelled:
        return
    if len(class_names) < 2:
        raise ValueError(
            f"the data set has the single class {', '.join(map(_quoted, class_names))}; at least two are wanted"
        )
    counts = {split: np.bincount(of, minlength=len(class_names)) for split, of in labelled.items()}
    for position, class_name in enumerate(class_names):
        without = [split for split, count in counts.items() if not count[position]]
        if without:
            has = [split for split in counts if split not in without]
            where = f"images in {has[0]} but none in {without[0]}" if has else "no images"
            raise ValueError(
                f"class {_quoted(class_name)} has {where}; add some, or leave the class out by a class_list"
            )
    if "train" in counts and counts["train"].max() < 2:
        raise ValueError(
            f"each of the {len(class_names)} classes has a single image in train: none can be kept for validation, on "
            f"which k and C are chosen; a class needs at least two"
        )


def _check_class_names(class_names: Sequence[str]) -> None:
    for name in class_names:
        if breaks_lines(name) or not name.strip():
            raise ValueError(
                f"class name {spelled(name)} is blank, or has control characters, line separators or bytes that are no "
                f"UTF-8; rename the folder, or leave the class out by a class_list"
            )


def _quoted(name: str) -> str:
    """With escapes where a name has more than its looks: spaces of other kinds, letters and accents apart."""
    return spelled(name) if not name.isprintable() or unicodedata.normalize("NFKC", name) != name else repr(name)


def _left_aside(source: Source) -> LeftAside | None:
    names = [shown(f"{split}/{name}") for split, of in source.splits.items() for name in getattr(of, "aside", ())]
    return LeftAside(count=len(names), names=names[:_LISTED]) if names else None


def _write_images(
    split: Split, directory: Path, name: str, max_pixels: int, workers: int, notes: _Notes, progress: Progress
) -> tuple[Split, dict[str, Any]]:
    """The images of one split into their container; what was kept, and what the manifest says of it."""
    total = len(split.labels)
    if isinstance(split, ArraySplit):
        return split, _write_array(split, directory / f"{name}-images.npy", lambda done: progress(name, done, total))
    for image in split.loose:
        notes.refuse(name, split, image, "it lies in no class folder")
    writer, kept = ShardWriter(directory, name), []
    for position, result in enumerate(_inspected(split, max_pixels, workers)):
        image = split.names[position]
        if isinstance(result, BadImageError):
            notes.refuse(name, split, image, str(result))
        else:
            data, found = result
            writer.add(data, found.height, found.width)
            kept.append(position)
            if other := other_format(image, found):
                notes.other_formats.append(OtherFormat(split=name, name=shown(image, _LONGEST), format=other))
        progress(name, position + 1, total)
    return split.subset(np.array(kept, dtype=np.int64)), writer.finish()


_File = tuple[bytes, Inspected]


def _inspected(split: FileSplit, max_pixels: int, workers: int) -> Iterator[_File | BadImageError]:
    """Each file and what is in it, in order; at most a few files a worker are in memory."""

    def read(name: str) -> _File | BadImageError:
        try:
            check_name(name)
            data = _content(split.root / name, max_pixels)
            return data, inspect(data, max_pixels)
        except BadImageError as error:
            return error
        except MemoryError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(split.root / name)) from None

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
        return read_bounded(path, at_most=most_bytes(max_pixels))
    except OSError as error:
        if machine_fault(error):
            raise
        why = "a link that leads nowhere" if path.is_symlink() else error.strerror
        raise BadImageError(f"cannot be read ({why})") from None
    except ValueError as error:
        raise BadImageError(str(error).removeprefix(shown(path)).lstrip(" :")) from None


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


def _message(bad: list[tuple[Path, Skipped]]) -> str:
    lines = [f"  {shown(path)}: {one.reason}" for path, one in bad[:_NAMED]]
    more = [f"  and {len(bad) - _NAMED} more"] if len(bad) > _NAMED else []
    return "\n".join([f"{len(bad)} bad images (on_bad_image: skip would leave them out):", *lines, *more])

"""The teacher's targets: an artifact, computed once, read by every row and every trial.

For each (view, image) the cache holds the teacher's class token and its per-head class-token attention on the
teacher's own patch grid, in float16; when asked for, also its attention in every block, its value norms and its patch
tokens (optional fields of `Features`, one file each). They depend on the teacher, the precision of its products and the
views alone, not on lambda, T, P or the student. Entries are keyed by the exact view: nothing is flipped or cropped
afterwards (features of a mirrored image are not the mirror of the features). With the cache off, `LiveTeacher` answers
inside the step, in the step's precision.

Opening a cache holds its manifest, sizes and types against one another and looks at a few values; `verify_targets`
looks at all of them. While a cache is made, each finished view leaves the digest of its values, which a resumed run
compares before it takes the view for done.
"""

import errno
import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attndistill.core.artifacts import (
    file_digest,
    read_json,
    replacing,
    replacing_directory,
    sweep,
    write_json,
)
from attndistill.core.features import Features
from attndistill.core.progress import say
from attndistill.core.randomness import uniforms
from attndistill.core.side_by_side import side_by_side
from attndistill.data.answers import ALWAYS, LOGARITHMS, Manifest, check_values, open_answers, shapes_of
from attndistill.data.answers import FORMAT as FORMAT
from attndistill.data.loading import Batch, stored_batches, view_batch
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.models.families import Backbone
from attndistill.models.kernels import images_at_once, use_frozen_kernels
from attndistill.models.readout import check_readable, read_fields

_LARGEST = float(torch.finfo(torch.float16).max)
_WIDTH = 2  # bytes of a float16
# How far an entry may be from the same one computed again. float16 keeps 11 bits; values are of order 1 (class token)
# to 10 (log-probabilities). bf16 keeps 8: alone and in a batch its answers differ by up to 2.4e-3, from fp32's by
# up to 3e-2; those to two images by 0.1 and more.
TOLERANCE = {"fp32": 2e-3, "bf16": 2e-2}
_LOOKED_AT = 8  # entries at opening
_PART = 1024  # images looked at together


class LiveTeacher:
    """The frozen teacher itself: batch -> its features, without gradients.

    Args:
        vit: the teacher.
        device: where it runs.
        fields: optional fields of `Features` that it answers.
        precision: "fp32" or "bf16", the autocast of a bf16 recipe's step; None: that of the step it is asked in.
    """

    def __init__(
        self, vit: Backbone, device: torch.device, fields: Sequence[str] = (), precision: str | None = None
    ) -> None:
        check_readable(vit)
        if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ValueError("targets.precision bf16: this GPU has no bf16; allowed: fp32")
        self.vit = vit.to(device).eval().requires_grad_(False)
        use_frozen_kernels(self.vit)
        self.device, self.fields, self.precision = device, tuple(fields), precision

    def __call__(self, batch: Batch) -> Features:
        half = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with torch.no_grad(), half:
            return read_fields(self.vit, batch.images.to(self.device), self.fields)


class CachedTargets:
    """The cache: batch -> the stored features of those very views.

    Args:
        directory: what `write_targets` wrote.
        device: where answers go.
        expected: identity of teacher, data and views; a cache of anything else is refused.
        fields: optional fields of `Features` that it answers.

    Raises:
        ValueError: no cache here, a damaged one, one made from something else (says what differs), or one without such
            a field.
    """

    def __init__(
        self, directory: Path, device: torch.device, expected: dict[str, Any], fields: Sequence[str] = ()
    ) -> None:
        manifest = Manifest.read(directory)
        made, wanted = {"precision": "fp32"} | manifest.identity, {"precision": "fp32"} | expected
        for key, value in wanted.items():
            if made.get(key) != value:
                raise ValueError(
                    f"{directory}: cached for {key} {made.get(key)!r}, this run has {value!r}; run `targets` again"
                )
        self.device, self.views = device, manifest.views
        stores = open_answers(directory, manifest)
        for field in fields:
            if field not in stores:
                raise ValueError(
                    f"{directory} holds no {field} of the teacher: run `targets` with {field} in targets.extra, "
                    "or set targets.cache to false"
                )
        for entry in np.linspace(0, manifest.views * manifest.images - 1, _LOOKED_AT).astype(int):
            view, image = divmod(int(entry), manifest.images)
            check_values(directory, stores, view, slice(image, image + 1))
        self._stores = {field: stores[field] for field in (*ALWAYS, *fields)}

    def __call__(self, batch: Batch) -> Features:
        found: dict[str, Any] = {
            field: self._tensor(store[batch.epoch, batch.indices]) for field, store in self._stores.items()
        }
        if "layer_attention" in found:
            found["layer_attention"] = found["layer_attention"].unbind(dim=1)
        return Features(**found)

    def _tensor(self, stored: NDArray[np.float16]) -> torch.Tensor:
        return torch.from_numpy(stored.astype(np.float32)).to(self.device, non_blocking=True)


def identity_in(precision: str, identity: Mapping[str, str]) -> dict[str, str]:
    """The identity of answers in a precision; fp32 is not named, as before there was another."""
    return {**identity, **({} if precision == "fp32" else {"precision": precision})}


def verify_targets(directory: Path) -> dict[str, str]:
    """Look at every value of a cache. Gives the SHA-256 of each file, to be compared with what was recorded of it.

    Raises:
        ValueError: a manifest, sizes, types or values that no `write_targets` has written; names the file.
    """
    manifest = Manifest.read(directory)
    stores = open_answers(directory, manifest)
    for view in range(manifest.views):
        for start in range(0, manifest.images, _PART):
            check_values(directory, stores, view, slice(start, min(start + _PART, manifest.images)))
    return {path.name: file_digest(path) for path in sorted(directory.glob("[!.]*"))}


def answer_shapes(vit: Any, fields: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shape of what a teacher answers for one image, by field; `vit` may be on the meta device."""
    shapes = shapes_of(vit.blocks[-1].attn.num_heads, vit.patch_embed.grid_size, vit.embed_dim, len(vit.blocks))
    return {field: shapes[field] for field in (*ALWAYS, *fields)}


def bytes_per_answer(vit: Any, fields: Sequence[str]) -> int:
    """What the cache takes for one view of one image."""
    return sum(_WIDTH * math.prod(shape) for shape in answer_shapes(vit, fields).values())


def check_room(directory: Path, needed: int) -> None:
    """Refuse a cache that the disk cannot hold, before it costs anything. Raises ValueError."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ValueError(
            f"{directory} would take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: ask for fewer "
            "targets.views or targets.extra, or set targets.cache to false"
        )


def write_targets(
    teacher: LiveTeacher,
    images: ImageSet,
    recipe: ViewRecipe,
    destination: Path,
    *,
    unfinished: Path,
    identity: dict[str, Any],
    views: int,
    verify: int,
    batch_size: int,
    processes: int,
    workers: int = 0,
) -> dict[str, Any]:
    """Run the teacher over every (view, image), store its answers, check a sample, and only then name the result.

    Args:
        teacher: the frozen teacher.
        images: training split of N images.
        recipe: the views.
        destination: directory, replaced whole.
        unfinished: directory of this very cache (teacher, data, views, V, fields) while it is made, owned by the
            caller. What a killed process left there is resumed, view by view; nothing is left there in the end.
        identity: what the cache is of (digests), compared when it is opened.
        views: V.
        verify: entries recomputed from scratch and compared.
        batch_size: views per teacher forward, at most (`images_at_once`).
        processes: views worked on side by side.
        workers: loader processes of each of them; 0 reads images in the process itself. Changes nothing but speed.

    Returns:
        The manifest.

    Raises:
        ValueError: the disk cannot hold it.
        FloatingPointError: the teacher's answers are not finite.
    """
    count, vit, arrays = len(images), teacher.vit, unfinished / "arrays"
    shapes = {field: (views, count, *shape) for field, shape in answer_shapes(vit, teacher.fields).items()}
    sweep(unfinished)  # before room is looked for
    if not arrays.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        check_room(unfinished, views * count * bytes_per_answer(vit, teacher.fields))
    arrays.mkdir(parents=True, exist_ok=True)
    stores = {field: _writable(arrays / f"{field}.npy", shape) for field, shape in shapes.items()}
    missing = [view for view in range(views) if not _is_made(unfinished, view, stores)]
    if len(missing) < views:
        say(f"targets: {views - len(missing)} of {views} views were made before")
    at_once = images_at_once(vit, teacher.device, batch_size)
    views_of = partial(stored_batches, images, recipe, batch_size=at_once, workers=workers)
    fill = _filler(stores, unfinished, teacher, views_of)
    side_by_side(fill, missing, processes, steps=count, label="targets", unit="views")
    try:
        _verify(stores, teacher, images, recipe, verify)
    except AssertionError:
        shutil.rmtree(unfinished)  # nothing wrong may be resumed
        raise
    cut = sum((Counter(read_json(_mark(unfinished, view))["cut"]) for view in range(views)), Counter())
    for field, number in sorted(cut.items()):
        say(f"targets: {number:,} values of {field} were cut to float16's range, -{_LARGEST:g} to {_LARGEST:g}")
    manifest = Manifest(
        format=FORMAT,
        cached=True,
        views=views,
        images=count,
        heads=vit.blocks[-1].attn.num_heads,
        grid=list(vit.patch_embed.grid_size),
        identity=identity,
        bytes_per_view_and_image=sum(store.nbytes for store in stores.values()) // (views * count),
    ).model_dump()
    write_json(arrays / "manifest.json", manifest)
    with replacing_directory(destination) as directory:
        directory.rmdir()
        _move(arrays, directory)
    shutil.rmtree(unfinished)
    return manifest


def _move(made: Path, to: Path) -> None:
    """Rename; to another file system, copy, so that a killed copy can be made again."""
    try:
        made.rename(to)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(made, to)


def _writable(path: Path, shape: tuple[int, ...]) -> Any:
    """A store, with what is in it already."""
    if path.exists():
        with suppress(Exception):  # numpy raises many kinds for a broken header
            store = np.lib.format.open_memmap(path, mode="r+")
            if store.shape == shape and store.dtype == np.float16 and store.flags.c_contiguous:
                return store
    with replacing(path) as beside:
        np.lib.format.open_memmap(beside, mode="w+", dtype=np.float16, shape=shape)
    return np.lib.format.open_memmap(path, mode="r+")


def _mark(directory: Path, view: int) -> Path:
    """There when every answer to this view is on the disk: their digests, and how many values were cut."""
    return directory / f"view-{view}.json"


def _is_made(directory: Path, view: int, stores: Mapping[str, Any]) -> bool:
    """Whether a view is on the disk as it was computed; reading it once costs little beside computing it."""
    mark = _mark(directory, view)
    if not mark.exists():
        return False
    found = {name: hashlib.sha256(store[view]).hexdigest() for name, store in stores.items()}
    try:
        whole = bool(read_json(mark)["sha256"] == found)
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        say(f"targets: view {view} in {directory} is damaged, and made again")
        mark.unlink()
    return whole


def _filler(
    stores: dict[str, Any],
    directory: Path,
    teacher: LiveTeacher,
    views_of: Callable[[int], Iterator[Batch]],
) -> Callable[[int, Callable[[int], None]], None]:
    """(view, told) -> nothing: compute one view of every image, store and mark it."""

    def fill(view: int, told: Callable[[int], None]) -> None:
        digests = {name: hashlib.sha256() for name in stores}
        cut: Counter[str] = Counter()
        for batch in views_of(view):
            for name, values in _halves(teacher, batch, cut).items():
                stores[name][view, batch.indices] = values
                digests[name].update(values.data)
            told(int(batch.indices[-1]) + 1)
        for store in stores.values():
            store.flush()
        sha256 = {name: digest.hexdigest() for name, digest in digests.items()}
        write_json(_mark(directory, view), {"cut": cut, "sha256": sha256})

    return fill


def _halves(teacher: LiveTeacher, batch: Batch, cut: Counter[str]) -> dict[str, NDArray[np.float16]]:
    """A teacher's answer by field, as stored. A probability of zero stays a finite logarithm.

    Args:
        teacher: who answers.
        batch: views.
        cut: takes the number of values beyond float16's range, by field.

    Raises:
        FloatingPointError: an answer is not finite; names the field, the view and the images.
    """
    given: dict[str, Any] = {field: value for field, value in vars(teacher(batch)).items() if value is not None}
    if "layer_attention" in given:
        given["layer_attention"] = torch.stack(given["layer_attention"], dim=1)
    halves = {}
    for field, value in given.items():
        low, high = (float(end) for end in value.aminmax())  # NaN is either
        if not (math.isfinite(high) and (math.isfinite(low) or field in LOGARITHMS)):
            bad = ~value.isfinite().flatten(1).all(dim=1).cpu().numpy()
            where = f"view {batch.epoch}, image indices {batch.indices[bad].tolist()}"
            raise FloatingPointError(f"the teacher's {field} is not finite for {where}")
        if low < -_LARGEST or high > _LARGEST:
            cut[field] += int((value.abs() > _LARGEST).sum())
            value = value.clamp(-_LARGEST, _LARGEST)
        halves[field] = np.ascontiguousarray(value.cpu().numpy().astype(np.float16))
    return halves


def _verify(stores: dict[str, Any], teacher: LiveTeacher, images: ImageSet, recipe: ViewRecipe, sample: int) -> None:
    """Recompute a sample of entries, each from scratch and alone."""
    near = TOLERANCE[teacher.precision or "fp32"]
    views, count = stores["cls_token"].shape[:2]
    draws = uniforms(recipe.seed, "verify", 0, np.arange(sample, dtype=np.int64), 2)
    for view, index in zip((draws[:, 0] * views).astype(int), (draws[:, 1] * count).astype(int), strict=True):
        batch = view_batch(images, recipe, int(view), np.array([index], dtype=np.int64))
        answer = _halves(teacher, batch, Counter())
        for name, values in answer.items():
            stored = stores[name][view, index].astype(np.float32)
            assert np.allclose(stored, values[0].astype(np.float32), rtol=near, atol=near), (
                f"{name}.npy: entry (view {view}, image {index}) is not what the teacher answers"
            )

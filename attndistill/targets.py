"""The teacher's targets: an artifact, computed once, read by every row and every trial.

For each (view, image) the cache holds the teacher's class token and its per-head class-token attention on the
teacher's own patch grid, in float16; when asked for, also its attention in every block, its value norms and its patch
tokens (optional fields of `Features`, one file each). They depend on the teacher and the views alone, not on lambda, T,
P or the student. Entries are keyed by the exact view: nothing is flipped or cropped afterwards (features of a mirrored
image are not the mirror of the features). With the cache off, `LiveTeacher` answers inside the step.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attndistill.core.artifacts import read_json, replacing, replacing_directory, write_json
from attndistill.core.features import Features
from attndistill.core.randomness import uniforms
from attndistill.core.side_by_side import side_by_side
from attndistill.data.loading import Batch, view_batch
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.models.families import Backbone
from attndistill.models.kernels import use_frozen_kernels
from attndistill.models.readout import check_readable, read_fields

FORMAT = "attndistill-targets/1"
_ALWAYS = ("cls_token", "log_attention")
_WIDTH = 2  # bytes of a float16
# float16 keeps 11 bits; values are of order 1 (class token) to 10 (log-probabilities)
_TOLERANCE = 2e-3


class LiveTeacher:
    """The frozen teacher itself: batch -> its features, without gradients.

    Args:
        vit: the teacher.
        device: where it runs.
        fields: optional fields of `Features` that it answers.
    """

    def __init__(self, vit: Backbone, device: torch.device, fields: Sequence[str] = ()) -> None:
        check_readable(vit)
        self.vit = vit.to(device).eval().requires_grad_(False)
        use_frozen_kernels(self.vit)
        self.device, self.fields = device, tuple(fields)

    def __call__(self, batch: Batch) -> Features:
        with torch.no_grad():
            return read_fields(self.vit, batch.images.to(self.device), self.fields)


class CachedTargets:
    """The cache: batch -> the stored features of those very views.

    Args:
        directory: what `write_targets` wrote.
        device: where answers go.
        expected: identity of teacher, data and views; a cache of anything else is refused.
        fields: optional fields of `Features` that it answers.

    Raises:
        ValueError: no cache here, one made from something else (says what differs), or one without such a field.
    """

    def __init__(
        self, directory: Path, device: torch.device, expected: dict[str, Any], fields: Sequence[str] = ()
    ) -> None:
        manifest = read_json(directory / "manifest.json")
        if not manifest.get("cached"):
            raise ValueError(f"{directory} holds no cached targets: run `targets` with targets.cache on")
        for key, value in expected.items():
            if manifest["identity"].get(key) != value:
                raise ValueError(
                    f"{directory}: cached for {key} {manifest['identity'].get(key)!r}, this run has {value!r}; "
                    "run `targets` again"
                )
        self.device, self.views = device, int(manifest["views"])
        self._stores = {field: _opened(directory, field) for field in (*_ALWAYS, *fields)}

    def __call__(self, batch: Batch) -> Features:
        found: dict[str, Any] = {
            field: self._tensor(store[batch.epoch, batch.indices]) for field, store in self._stores.items()
        }
        if "layer_attention" in found:
            found["layer_attention"] = found["layer_attention"].unbind(dim=1)
        return Features(**found)

    def _tensor(self, stored: NDArray[np.float16]) -> torch.Tensor:
        return torch.from_numpy(stored.astype(np.float32)).to(self.device, non_blocking=True)


def _opened(directory: Path, field: str) -> NDArray[np.float16]:
    path = directory / f"{field}.npy"
    if not path.exists():
        raise ValueError(
            f"{directory} holds no {field} of the teacher: run `targets` with {field} in targets.extra, "
            "or set targets.cache to false"
        )
    stored: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    return stored


def answer_shapes(vit: Any, fields: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shape of what a teacher answers for one image, by field; `vit` may be on the meta device."""
    grid, heads = vit.patch_embed.grid_size, vit.blocks[-1].attn.num_heads
    patches = grid[0] * grid[1]
    shapes = {
        "cls_token": (vit.embed_dim,),
        "log_attention": (heads, 1 + patches),
        "layer_attention": (len(vit.blocks), heads, 1 + patches),
        "value_norms": (heads, 1 + patches),
        "patch_tokens": (patches, vit.embed_dim),
    }
    return {field: shapes[field] for field in (*_ALWAYS, *fields)}


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
) -> dict[str, Any]:
    """Run the teacher over every (view, image), store its answers, check a sample, and only then name the result.

    Args:
        teacher: the frozen teacher.
        images: training split of N images.
        recipe: the views.
        destination: directory, replaced whole.
        unfinished: directory of this very cache (teacher, data, views, V, fields) while it is made, owned by the
            caller. What a killed process left there is gone on with, view by view; nothing is left there in the end.
        identity: what the cache is of (digests), compared when it is opened.
        views: V.
        verify: entries recomputed from scratch and compared.
        batch_size: views per teacher forward.
        processes: views worked on side by side.

    Returns:
        The manifest.

    Raises:
        ValueError: the disk cannot hold it.
    """
    count, vit = len(images), teacher.vit
    shapes = {field: (views, count, *shape) for field, shape in answer_shapes(vit, teacher.fields).items()}
    if not unfinished.exists():
        check_room(unfinished, views * count * bytes_per_answer(vit, teacher.fields))
    unfinished.mkdir(parents=True, exist_ok=True)
    stores = {field: _writable(unfinished / f"{field}.npy", shape) for field, shape in shapes.items()}
    missing = [view for view in range(views) if not _mark(unfinished, view).exists()]
    if len(missing) < views:
        print(f"targets: {views - len(missing)} of {views} views were made before")
    fill = _filler(stores, unfinished, teacher, images, recipe, batch_size)
    side_by_side(fill, missing, processes, steps=count, label="targets", unit="views")
    try:
        _verify(stores, teacher, images, recipe, verify)
    except AssertionError:
        shutil.rmtree(unfinished)  # nothing wrong may be gone on with
        raise
    manifest = {
        "format": FORMAT,
        "cached": True,
        "views": views,
        "images": count,
        "heads": vit.blocks[-1].attn.num_heads,
        "grid": list(vit.patch_embed.grid_size),
        "identity": identity,
        "bytes_per_view_and_image": sum(store.nbytes for store in stores.values()) // (views * count),
    }
    for view in range(views):
        _mark(unfinished, view).unlink()
    write_json(unfinished / "manifest.json", manifest)
    with replacing_directory(destination) as directory:
        directory.rmdir()
        shutil.move(unfinished, directory)
    return manifest


def _writable(path: Path, shape: tuple[int, ...]) -> Any:
    """A store, with what is in it already."""
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    with replacing(path) as beside:
        np.lib.format.open_memmap(beside, mode="w+", dtype=np.float16, shape=shape)
    return np.lib.format.open_memmap(path, mode="r+")


def _mark(directory: Path, view: int) -> Path:
    """There when every answer to this view is on the disk."""
    return directory / f"view-{view}.done"


def _filler(
    stores: dict[str, Any],
    directory: Path,
    teacher: LiveTeacher,
    images: ImageSet,
    recipe: ViewRecipe,
    batch_size: int,
) -> Callable[[int, Callable[[int], None]], None]:
    """(view, told) -> nothing: compute one view of every image, store and mark it."""

    def fill(view: int, told: Callable[[int], None]) -> None:
        for start in range(0, len(images), batch_size):
            indices = np.arange(start, min(start + batch_size, len(images)), dtype=np.int64)
            for name, values in _halves(teacher(view_batch(images, recipe, view, indices))).items():
                stores[name][view, indices] = values
            told(int(indices[-1]) + 1)
        for store in stores.values():
            store.flush()
        _mark(directory, view).touch()

    return fill


def _halves(features: Features) -> dict[str, NDArray[np.float16]]:
    """By field, as stored. A probability of zero stays a finite logarithm, a large patch token finite."""
    largest = float(torch.finfo(torch.float16).max)
    given: dict[str, Any] = {field: value for field, value in vars(features).items() if value is not None}
    if "layer_attention" in given:
        given["layer_attention"] = torch.stack(given["layer_attention"], dim=1)
    return {field: value.clamp(-largest, largest).cpu().numpy().astype(np.float16) for field, value in given.items()}


def _verify(stores: dict[str, Any], teacher: LiveTeacher, images: ImageSet, recipe: ViewRecipe, sample: int) -> None:
    """Recompute a sample of entries, each from scratch and alone."""
    views, count = stores["cls_token"].shape[:2]
    draws = uniforms(recipe.seed, "verify", 0, np.arange(sample, dtype=np.int64), 2)
    for view, index in zip((draws[:, 0] * views).astype(int), (draws[:, 1] * count).astype(int), strict=True):
        answer = _halves(teacher(view_batch(images, recipe, int(view), np.array([index], dtype=np.int64))))
        for name, values in answer.items():
            stored = stores[name][view, index].astype(np.float32)
            assert np.allclose(stored, values[0].astype(np.float32), rtol=_TOLERANCE, atol=_TOLERANCE), (
                f"{name}.npy: entry (view {view}, image {index}) is not what the teacher answers"
            )

"""The teacher's targets: an artifact, computed once, read by every row and every trial.

For each (view, image) the cache holds the teacher's class token and its per-head class-token attention on the
teacher's own patch grid, in float16. They depend on the teacher and the views alone, not on lambda, T, P or the
student. Entries are keyed by the exact view: nothing is flipped or cropped afterwards (features of a mirrored image are
not the mirror of the features). With the cache off, `LiveTeacher` answers inside the step.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attndistill.core.artifacts import read_json, replacing_directory, write_json
from attndistill.core.features import Features
from attndistill.core.randomness import uniforms
from attndistill.core.side_by_side import side_by_side
from attndistill.data.loading import Batch, view_batch
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.models.families import Backbone
from attndistill.models.readout import check_readable, read_features

FORMAT = "attndistill-targets/1"
_CLS, _ATTENTION = "cls_token.npy", "log_attention.npy"
# float16 keeps 11 bits; values are of order 1 (class token) to 10 (log-probabilities)
_TOLERANCE = 2e-3


class LiveTeacher:
    """The frozen teacher itself: batch -> its features, without gradients."""

    def __init__(self, vit: Backbone, device: torch.device) -> None:
        check_readable(vit)
        self.vit = vit.to(device).eval().requires_grad_(False)
        self.device = device

    def __call__(self, batch: Batch) -> Features:
        with torch.no_grad():
            return read_features(self.vit, batch.images.to(self.device))


class CachedTargets:
    """The cache: batch -> the stored features of those very views.

    Args:
        directory: what `write_targets` wrote.
        device: where answers go.
        expected: identity of teacher, data and views; a cache of anything else is refused.

    Raises:
        ValueError: no cache here, or one made from something else (says what differs).
    """

    def __init__(self, directory: Path, device: torch.device, expected: dict[str, Any]) -> None:
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
        self._cls = np.load(directory / _CLS, mmap_mode="r", allow_pickle=False)
        self._attention = np.load(directory / _ATTENTION, mmap_mode="r", allow_pickle=False)

    def __call__(self, batch: Batch) -> Features:
        return Features(
            self._tensor(self._cls[batch.epoch, batch.indices]),
            self._tensor(self._attention[batch.epoch, batch.indices]),
        )

    def _tensor(self, stored: NDArray[np.float16]) -> torch.Tensor:
        return torch.from_numpy(stored.astype(np.float32)).to(self.device, non_blocking=True)


def write_targets(
    teacher: LiveTeacher,
    images: ImageSet,
    recipe: ViewRecipe,
    destination: Path,
    *,
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
        identity: what the cache is of (digests), compared when it is opened.
        views: V.
        verify: entries recomputed from scratch and compared.
        batch_size: views per teacher forward.
        processes: views worked on side by side.

    Returns:
        The manifest.
    """
    count, vit = len(images), teacher.vit
    grid, heads = vit.patch_embed.grid_size, vit.blocks[-1].attn.num_heads
    tokens = 1 + grid[0] * grid[1]
    with replacing_directory(destination) as directory:
        shape = {_CLS: (views, count, vit.embed_dim), _ATTENTION: (views, count, heads, tokens)}
        stores = {
            name: np.lib.format.open_memmap(directory / name, mode="w+", dtype=np.float16, shape=size)
            for name, size in shape.items()
        }
        fill = _filler(stores, teacher, images, recipe, batch_size)
        side_by_side(fill, range(views), processes, steps=count, label="targets", unit="views")
        for store in stores.values():
            store.flush()
        _verify(stores, teacher, images, recipe, verify)
        manifest = {
            "format": FORMAT,
            "cached": True,
            "views": views,
            "images": count,
            "heads": heads,
            "grid": list(grid),
            "identity": identity,
            "bytes_per_view_and_image": sum(store.nbytes for store in stores.values()) // (views * count),
        }
        write_json(directory / "manifest.json", manifest)
    return manifest


def _filler(
    stores: dict[str, Any], teacher: LiveTeacher, images: ImageSet, recipe: ViewRecipe, batch_size: int
) -> Callable[[int, Callable[[int], None]], None]:
    """(view, told) -> nothing: compute one view of every image and store it."""

    def fill(view: int, told: Callable[[int], None]) -> None:
        for start in range(0, len(images), batch_size):
            indices = np.arange(start, min(start + batch_size, len(images)), dtype=np.int64)
            for name, values in _halves(teacher(view_batch(images, recipe, view, indices))).items():
                stores[name][view, indices] = values
            told(int(indices[-1]) + 1)

    return fill


def _halves(features: Features) -> dict[str, NDArray[np.float16]]:
    assert features.log_attention is not None
    lowest = float(torch.finfo(torch.float16).min)  # a probability of zero stays a finite logarithm
    attention = features.log_attention.clamp_min(lowest)
    return {
        _CLS: features.cls_token.cpu().numpy().astype(np.float16),
        _ATTENTION: attention.cpu().numpy().astype(np.float16),
    }


def _verify(stores: dict[str, Any], teacher: LiveTeacher, images: ImageSet, recipe: ViewRecipe, sample: int) -> None:
    """Recompute a sample of entries, each from scratch and alone."""
    views, count = stores[_CLS].shape[:2]
    draws = uniforms(recipe.seed, "verify", 0, np.arange(sample, dtype=np.int64), 2)
    for view, index in zip((draws[:, 0] * views).astype(int), (draws[:, 1] * count).astype(int), strict=True):
        answer = _halves(teacher(view_batch(images, recipe, int(view), np.array([index], dtype=np.int64))))
        for name, values in answer.items():
            stored = stores[name][view, index].astype(np.float32)
            assert np.allclose(stored, values[0].astype(np.float32), rtol=_TOLERANCE, atol=_TOLERANCE), (
                f"{name}: entry (view {view}, image {index}) is not what the teacher answers"
            )

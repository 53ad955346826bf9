"""V random views of every labelled image, read once by the frozen backbone and replayed: epoch e uses view e mod V.

What is stored are the tokens that heads judge, a file a view, each written whole: a killed run goes on with the next
view. Probes of one model on one data set with the same crops share them, and they are removed with the checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from attndistill.core.artifacts import digest_of, replacing
from attndistill.core.progress import progress
from attndistill.data.loading import Batch, view_batch
from attndistill.data.views import EXACT, Boxes, Pixels, ViewRecipe
from attndistill.evaluations.judged import Judged
from attndistill.models.readout import read_last_blocks

# N images, B batch, L class tokens of the last blocks and the mean of the last one's patches, D width

_USUAL = 4  # blocks that are stored where no more are asked for: DINO's and DINOv2's


@dataclass(frozen=True)
class StoredViews:
    """Of one model on one data set.

    Attributes:
        judged: the model and the data.
        recipe: of the views.
        count: V.
        blocks: the last blocks that somebody asks for.
    """

    judged: Judged
    recipe: ViewRecipe
    count: int
    blocks: int

    @property
    def most(self) -> int:
        """Blocks that are stored."""
        return max(self.blocks, min(_USUAL, len(self.judged.backbone.blocks)))

    @cached_property
    def folder(self) -> Path:
        """Where the views lie, named by all that they depend on."""
        about = {"stored views": digest_of(self.recipe.describe()), "blocks": str(self.most)}
        return self.judged.checkpoint({**self.judged.inputs, **about}).directory

    def fill(self) -> None:
        """Compute the views that are not there yet."""
        with progress(f"{self.judged.execution.label} views", self.count, "views") as done:
            for view in range(self.count):
                if not self._file(view).exists():
                    self._write(view)
                done(view + 1)

    def replayed(self, learned: NDArray[np.int64]) -> Callable[[Batch], Float[Tensor, "B L D"]]:
        """Batch of these images, by their places in `learned` -> their stored tokens."""
        row = np.full(len(self.judged.train), -1)
        row[self.judged.kept] = np.arange(len(self.judged.kept))
        rows, files = row[learned], [np.load(self._file(view), mmap_mode="r") for view in range(self.count)]
        return lambda batch: torch.from_numpy(files[batch.epoch][rows[batch.indices]])

    def _file(self, view: int) -> Path:
        return self.folder / f"view-{view}.npy"

    def _write(self, view: int) -> None:
        judged, kept = self.judged, self.judged.kept
        backbone, device = judged.backbone.to(judged.execution.device).eval(), judged.execution.device
        self.folder.mkdir(parents=True, exist_ok=True)
        shape = (len(kept), self.most + 1, int(backbone.embed_dim))
        with replacing(self._file(view)) as beside, torch.no_grad():
            stored = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=shape)
            for start in range(0, len(kept), judged.execution.evaluation_batch_size):
                part = kept[start : start + judged.execution.evaluation_batch_size]
                images = view_batch(judged.train, self.recipe, view, part).images.to(device)
                tokens = read_last_blocks(backbone, images, self.most, patch_mean=True)
                stored[start : start + len(part)] = tokens.float().cpu().numpy()
            stored.flush()


class Unseen:
    """Some images of a set of which nobody looks at the pixels: a loader that cuts nothing out of them."""

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels = labels
        self.names: Sequence[str] = [""] * len(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def sizes(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.ones(len(indices), np.int64), np.ones(len(indices), np.int64)

    def crops(self, indices: NDArray[np.int64], boxes: Boxes, image_size: int, pixels: Pixels = EXACT) -> Tensor:
        return torch.empty(len(indices), 3, 0, 0)

"""Views: which crop of which image, as a pure function of (seed, epoch, index).

The distribution is torchvision's RandomResizedCrop and RandomHorizontalFlip (Table 8's augmentation); the numbers come
from a counter, never from a carried state. So workers, ranks and resumed runs see the same views, and a teacher's
answer to a view can be stored and looked up. Boxes for a whole batch are drawn at once.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attndistill.core.randomness import uniforms

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# B batch, S side of the square view in pixels

_ATTEMPTS = 10  # torchvision's number of tries before it falls back to the central crop


@dataclass(frozen=True)
class Boxes:
    """One crop per image, in pixels of the stored image, and whether it is mirrored. All arrays have length B."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    flip: NDArray[np.bool_]

    def place(self, row: int, shrunk: int = 1) -> tuple[slice, slice]:
        """Rows and columns of one crop; of a picture with 1/`shrunk` of its sides to the nearest pixel."""
        edges = ((self.top[row], self.height[row]), (self.left[row], self.width[row]))
        rows, columns = (
            slice(*((edge + shrunk // 2) // shrunk for edge in (int(start), int(start + extent))))
            for start, extent in edges
        )
        return rows, columns


@dataclass(frozen=True)
class Pixels:
    """How a crop becomes pixels. Each value but the default is a declared variant: other pixels, another digest.

    Attributes:
        resampling: "exact" computes as Pillow does on pictures of files, in floats on stored arrays; "uint8" by torch
            on 8-bit pictures, which is sooner. Arrays of small images have one way.
        decoding: "full", or "scaled": a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides where the crop has then still
            as many pixels as the view, both ways; edges of the crop go to the nearest pixel.
    """

    resampling: str = "exact"
    decoding: str = "full"

    def shrink(self, height: int, width: int, image_size: int) -> int:
        """By what a JPEG is shrunk for a crop of so many pixels."""
        fits = [1, *(part for part in (2, 4, 8) if part * image_size <= min(height, width))]
        return fits[-1] if self.decoding == "scaled" else 1


EXACT = Pixels()


@dataclass(frozen=True)
class ViewRecipe:
    """Everything that decides a training view besides the epoch and the index.

    Attributes:
        seed: key of the views; shared by every run that is to share a target cache.
        image_size: side S of a view.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height.
        flip_probability: chance of a horizontal mirror.
        mean: per RGB channel, of images in [0, 1].
        std: likewise.
        resampling: see `Pixels`.
        decoding: likewise.
    """

    seed: int
    image_size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip_probability: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resampling: str = EXACT.resampling
    decoding: str = EXACT.decoding

    @classmethod
    def of(cls, settings: Any) -> "ViewRecipe":
        """The recipe of a section `views` of the configuration."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    def describe(self) -> dict[str, Any]:
        """JSON-able form, for digests and manifests; of pixels, what is no default."""
        variants = {name: way for name, way in vars(self.pixels).items() if way != getattr(EXACT, name)}
        return {
            "seed": self.seed,
            "image_size": self.image_size,
            "scale": list(self.scale),
            "ratio": list(self.ratio),
            "flip_probability": self.flip_probability,
            "mean": list(self.mean),
            "std": list(self.std),
            **variants,
        }

    @property
    def pixels(self) -> Pixels:
        """How crops become pixels."""
        return Pixels(self.resampling, self.decoding)

    def boxes(
        self, epoch: int, indices: NDArray[np.int64], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> Boxes:
        """The crops of `indices` in `epoch`; `heights` and `widths` are the stored images' sizes."""
        draws = uniforms(self.seed, "view", epoch, indices, 2 * _ATTEMPTS + 3)
        area = (heights * widths)[:, None] * _between(draws[:, :_ATTEMPTS], *self.scale)
        log_ratio = _between(draws[:, _ATTEMPTS : 2 * _ATTEMPTS], *np.log(self.ratio))
        width = np.rint(np.sqrt(area * np.exp(log_ratio))).astype(np.int64)
        height = np.rint(np.sqrt(area / np.exp(log_ratio))).astype(np.int64)
        fits = (width > 0) & (width <= widths[:, None]) & (height > 0) & (height <= heights[:, None])
        first = fits.argmax(axis=1)
        row = np.arange(len(indices))
        fallback = self._central(heights, widths)
        height = np.where(fits.any(axis=1), height[row, first], fallback.height)
        width = np.where(fits.any(axis=1), width[row, first], fallback.width)
        top = np.floor(draws[:, -3] * (heights - height + 1)).astype(np.int64)
        left = np.floor(draws[:, -2] * (widths - width + 1)).astype(np.int64)
        return Boxes(
            top=np.where(fits.any(axis=1), top, fallback.top),
            left=np.where(fits.any(axis=1), left, fallback.left),
            height=height,
            width=width,
            flip=draws[:, -1] < self.flip_probability,
        )

    def _central(self, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> Boxes:
        """torchvision's fallback: the whole image, cut to the nearest allowed aspect ratio."""
        ratio = np.clip(widths / heights, *self.ratio)
        width = np.minimum(widths, np.rint(heights * ratio)).astype(np.int64)
        height = np.minimum(heights, np.rint(widths / ratio)).astype(np.int64)
        return _centred(heights, widths, height, width)

    def normalise(self, images: "Float[Tensor, 'B 3 S S']", *, in_place: bool = False) -> "Float[Tensor, 'B 3 S S']":
        """Images in [0, 1] to zero mean and unit deviation per channel."""
        import torch

        mean = torch.tensor(self.mean, dtype=images.dtype).view(3, 1, 1)
        std = torch.tensor(self.std, dtype=images.dtype).view(3, 1, 1)
        views = images if in_place else torch.empty_like(images)
        for view, image in zip(views, images, strict=True):  # one is done while the processor's cache has it
            torch.sub(image, mean, out=view).div_(std)
        return views


def evaluation_boxes(heights: NDArray[np.int64], widths: NDArray[np.int64], crop_share: float) -> Boxes:
    """The evaluation view: the central square covering `crop_share` of the shorter side.

    Resizing the shorter side to 256 and cutting the central 224 (DINO's protocol) is `crop_share` 224/256.
    """
    side = np.maximum(1, np.rint(np.minimum(heights, widths) * crop_share)).astype(np.int64)
    return _centred(heights, widths, side, side)


def _centred(
    heights: NDArray[np.int64], widths: NDArray[np.int64], height: NDArray[np.int64], width: NDArray[np.int64]
) -> Boxes:
    return Boxes(
        top=(heights - height) // 2,
        left=(widths - width) // 2,
        height=height,
        width=width,
        flip=np.zeros(len(heights), dtype=bool),
    )


def _between(draws: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return low + (high - low) * draws

"""Antialiased bicubic crops of whole batches: of small images by two small matrices per image, else one by one.

The matrices are dense while the filter is narrow: up to about 48 pixels a side they are faster than a call for each
image, from 96 on more than twice as slow (docs/performance.md). The choice depends on sizes alone.

The filter is the one PIL and torchvision use (Keys' cubic, a = -0.5, widened when shrinking). Exact resampling agrees
with `torchvision.transforms.v2.functional.resized_crop(antialias=True)`: of stored arrays on float images to rounding,
of files on PIL images to the bit.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from attndistill.data.views import EXACT, Boxes

# B batch, H height and W width of the stored images, S side of the view

_CUBIC = -0.5
_SUPPORT = 2.0
_LARGE = 48 * 48  # side of a view x longer side of the stored images


def crop_and_resize(
    images: NDArray[np.uint8], boxes: Boxes, image_size: int, resampling: str = EXACT.resampling
) -> Float[Tensor, "B 3 S S"]:
    """Cut one box per image and resample it to a square.

    Args:
        images: (B, H, W, 3) uint8.
        boxes: crops in pixels of `images`.
        image_size: S.
        resampling: see `Pixels`; small images have one way.

    Returns:
        float32 in [0, 1]; bicubic overshoot is clamped as an 8-bit image would clamp it.
    """
    batch, height, width, _ = images.shape
    if image_size * max(height, width) > _LARGE:
        cuts = (image[boxes.place(row)] for row, image in enumerate(images))
        return one_by_one(cuts, boxes.flip, image_size, by_torch if resampling == "uint8" else _in_floats)
    rows = torch.from_numpy(_weights(boxes.top, boxes.height, height, image_size))
    columns = _weights(boxes.left, boxes.width, width, image_size)
    columns[boxes.flip] = columns[boxes.flip, ::-1]
    pixels = torch.from_numpy(images).view(batch, height, width * 3).to(torch.float32)
    down = (rows @ pixels).view(batch, image_size, width, 3)  # one product for the three channels
    across = down.permute(0, 3, 1, 2).flatten(1, 2) @ torch.from_numpy(columns).transpose(1, 2)
    return (across / 255).clamp_(0, 1).view(batch, 3, image_size, image_size)


def one_by_one(
    cuts: Iterable[NDArray[np.uint8]],
    flips: NDArray[np.bool_],
    image_size: int,
    resample: Callable[[NDArray[np.uint8], int], Tensor],
) -> Float[Tensor, "B 3 S S"]:
    """Pictures of any size, (H, W, 3), as views in [0, 1].

    Args:
        cuts: the pictures, each asked for when the one before is done.
        flips: which are mirrored.
        image_size: S.
        resample: a picture to (3, S, S) of the same range.
    """
    views = torch.empty(len(flips), 3, image_size, image_size)
    for view, cut, flip in zip(views, cuts, flips, strict=True):
        picture = resample(cut, image_size).contiguous()  # a byte a pixel is moved sooner than four
        view.copy_(picture.flip(-1) if flip else picture).div_(255)
    return views


def by_pillow(cut: NDArray[np.uint8], image_size: int) -> Tensor:
    """Exact resampling of a picture in 8 bits."""
    view = Image.fromarray(cut).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)


def by_torch(cut: NDArray[np.uint8], image_size: int) -> Tensor:
    """Resampling `uint8`. Without a processor's AVX2 torch takes another way, and single pixels differ by one."""
    return _interpolated(cut.copy(), image_size)


def _in_floats(cut: NDArray[np.uint8], image_size: int) -> Tensor:
    return _interpolated(cut.astype(np.float32), image_size).clamp_(0, 255)


def _interpolated(cut: NDArray[Any], image_size: int) -> Tensor:
    picture, size = torch.from_numpy(cut).permute(2, 0, 1), (image_size, image_size)
    return interpolate(picture[None], size=size, mode="bicubic", antialias=True)[0]


def _weights(start: NDArray[np.int64], extent: NDArray[np.int64], length: int, size: int) -> NDArray[np.float32]:
    """(B, size, length): row s holds the filter of output pixel s over the input line, zero outside the crop."""
    scale = (extent / size)[:, None, None]
    widen = np.maximum(scale, 1.0)  # an antialiasing filter is as wide as what it shrinks
    centre = (np.arange(size)[None, :, None] + 0.5) * scale
    position = np.arange(length)[None, None, :] - start[:, None, None]
    distance = np.abs((position - centre + 0.5) / widen).astype(np.float32)
    weights = _cubic(distance) * ((position >= 0) & (position < extent[:, None, None]))
    normalised: NDArray[np.float32] = weights / weights.sum(axis=-1, keepdims=True)
    return normalised


def _cubic(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keys' cubic of a distance: zero from 2 on, where both its value and its slope vanish."""
    a = np.float32(_CUBIC)
    x = np.minimum(x, np.float32(_SUPPORT))
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, far)

"""Antialiased bicubic crops of whole batches: of small images by two small matrices per image, else one by one.

The matrices are dense while the filter is narrow: up to about 48 pixels a side they are faster than a call for each
image, from 96 on more than twice as slow (docs/performance.md). The choice depends on sizes alone.

The filter is the one PIL and torchvision use (Keys' cubic, a = -0.5, widened when shrinking); results agree with
`torchvision.transforms.v2.functional.resized_crop(antialias=True)` on float images to rounding.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from attndistill.data.views import Boxes

# B batch, H height and W width of the stored images, S side of the view

_CUBIC = -0.5
_SUPPORT = 2.0
_LARGE = 48 * 48  # side of a view x longer side of the stored images


def crop_and_resize(images: NDArray[np.uint8], boxes: Boxes, image_size: int) -> Float[Tensor, "B 3 S S"]:
    """Cut one box per image and resample it to a square.

    Args:
        images: (B, H, W, 3) uint8.
        boxes: crops in pixels of `images`.
        image_size: S.

    Returns:
        float32 in [0, 1]; bicubic overshoot is clamped as an 8-bit image would clamp it.
    """
    batch, height, width, _ = images.shape
    if image_size * max(height, width) > _LARGE:
        return _one_by_one(torch.from_numpy(images), boxes, image_size)
    rows = torch.from_numpy(_weights(boxes.top, boxes.height, height, image_size))
    columns = _weights(boxes.left, boxes.width, width, image_size)
    columns[boxes.flip] = columns[boxes.flip, ::-1]
    pixels = torch.from_numpy(images).view(batch, height, width * 3).to(torch.float32)
    down = (rows @ pixels).view(batch, image_size, width, 3)  # one product for the three channels
    across = down.permute(0, 3, 1, 2).flatten(1, 2) @ torch.from_numpy(columns).transpose(1, 2)
    return (across / 255).clamp_(0, 1).view(batch, 3, image_size, image_size)


def _one_by_one(images: Tensor, boxes: Boxes, image_size: int) -> Float[Tensor, "B 3 S S"]:
    views = torch.empty(len(images), 3, image_size, image_size)
    edges = zip(boxes.top, boxes.left, boxes.height, boxes.width, strict=True)
    for row, (top, left, height, width) in enumerate(edges):
        crop = images[row, top : top + height, left : left + width].permute(2, 0, 1)[None].to(torch.float32)
        view = interpolate(crop, size=(image_size, image_size), mode="bicubic", antialias=True)[0]
        views[row] = view.flip(-1) if boxes.flip[row] else view
    return (views / 255).clamp_(0, 1)


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

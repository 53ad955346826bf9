"""Antialiased bicubic crops of whole batches: two small matrices per image instead of one resize call per image.

The filter is the one PIL and torchvision use (Keys' cubic, a = -0.5, widened when shrinking); results agree with
`torchvision.transforms.v2.functional.resized_crop(antialias=True)` on float images to rounding.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from attndistill.data.views import Boxes

# B batch, H height and W width of the stored images, S side of the view

_CUBIC = -0.5
_SUPPORT = 2.0


def crop_and_resize(images: NDArray[np.uint8], boxes: Boxes, image_size: int) -> Float[Tensor, "B 3 S S"]:
    """Cut one box per image and resample it to a square.

    Args:
        images: (B, H, W, 3) uint8.
        boxes: crops in pixels of `images`.
        image_size: S.

    Returns:
        float32 in [0, 1]; bicubic overshoot is clamped as an 8-bit image would clamp it.
    """
    rows = _weights(boxes.top, boxes.height, images.shape[1], image_size)
    columns = _weights(boxes.left, boxes.width, images.shape[2], image_size)
    columns[boxes.flip] = columns[boxes.flip, ::-1]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32) / 255
    down = torch.from_numpy(rows).unsqueeze(1) @ pixels
    return (down @ torch.from_numpy(columns).transpose(1, 2).unsqueeze(1)).clamp_(0, 1)


def _weights(start: NDArray[np.int64], extent: NDArray[np.int64], length: int, size: int) -> NDArray[np.float32]:
    """(B, size, length): row s holds the filter of output pixel s over the input line, zero outside the crop."""
    scale = (extent / size)[:, None, None]
    widen = np.maximum(scale, 1.0)
    centre = (np.arange(size)[None, :, None] + 0.5) * scale
    position = np.arange(length)[None, None, :] - start[:, None, None]
    inside = (position >= 0) & (position < extent[:, None, None])
    # PIL starts the window at int(centre - support + 0.5) and ends it at int(centre + support + 0.5).
    reach = _SUPPORT * widen
    inside = inside & (position >= np.trunc(centre - reach + 0.5)) & (position < np.trunc(centre + reach + 0.5))
    weights = np.where(inside, _cubic((position - centre + 0.5) / widen), 0.0)
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    return normalised


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))

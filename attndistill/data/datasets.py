"""The registered data sets. Each returns a `Source`; nothing is decoded or copied until `prepare` asks.

Every set takes `class_list`, a file with one class name a line that restricts and orders the classes.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from attndistill.data import DATASETS
from attndistill.data.sources import ArraySplit, Source
from attndistill.data.splits import train_test_split


@DATASETS.register("digits")
def digits(
    *,
    size: Annotated[int, Field(ge=8, le=512)] = 32,
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    split_seed: Annotated[int, Field(ge=0)] = 0,
    class_list: str | None = None,
) -> Source:
    """scikit-learn's 1,797 real handwritten digits (UCI), 8x8 grey, enlarged with bicubic interpolation; works offline.

    Args:
        size: side of the stored images in pixels.
        test_fraction: share of every class that becomes the test split.
        split_seed: key of that split.
        class_list: file of class names ("0" to "9").
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)

    def image(position: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
        enlarged = Image.fromarray(grey[position]).resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(enlarged.convert("RGB"))

    labels = bunch.target.astype(np.int64)
    everything = ArraySplit(labels, [f"digit-{i:04d}" for i in range(len(labels))], image)
    train, test = train_test_split(labels, test_fraction, split_seed)
    splits = {"train": everything.subset(train), "test": everything.subset(test)}
    return Source(tuple("0123456789"), splits).restricted_to(class_list)

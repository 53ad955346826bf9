"""What fine-tuning does to a view beyond crop and flip: RandAugment before it is normalised, random erasing after.

Both are timm's own. Their draws come from the counter (`core.generators`), so a view stays a pure function of (seed,
epoch, index).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import RandAugment, posterize, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from attndistill.core.generators import borrowed, numbers
from attndistill.data.views import ViewRecipe

# B batch, S side of the view


@dataclass(frozen=True)
class Augmentation:
    """RandAugment and random erasing of a batch of crops.

    Attributes:
        seed: key of the draws.
        policy: timm's text of a RandAugment ("rand-m9-mstd0.5-inc1"); empty: none.
        erasing: chance that a rectangle of a view becomes noise.
    """

    seed: int
    policy: str
    erasing: float

    def view(
        self, crops: Float[Tensor, "B 3 S S"], recipe: ViewRecipe, epoch: int, indices: NDArray[np.int64]
    ) -> Float[Tensor, "B 3 S S"]:
        """Normalised views of crops in [0, 1]."""
        given = numbers(self.seed, "augmentation", epoch, indices)
        erase = RandomErasing(self.erasing, mode="pixel", device="cpu")
        with borrowed() as seed:
            if self.policy:
                change, changed = self._policy(recipe), []
                for number, crop in zip(given, crops, strict=True):
                    seed(number)
                    changed.append(_changed(crop, change))
                crops = torch.stack(changed)
            views = recipe.normalise(crops)
            for number, view in zip(given, views, strict=True):
                seed(number ^ 1)
                erase(view)
        return views

    def _policy(self, recipe: ViewRecipe) -> RandAugment:
        """With the settings that timm's own `create_transform` gives it: what is moved in is filled with the mean."""
        mean = tuple(min(255, round(255 * channel)) for channel in recipe.mean)
        settings = {"translate_const": int(recipe.image_size * 0.45), "img_mean": mean}
        found = rand_augment_transform(self.policy, {**settings, "interpolation": Image.Resampling.BICUBIC})
        for operation in found.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
        return found


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm asks for 0 bits at full magnitude, which made a black image until Pillow began to refuse it."""
    return posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def _changed(crop: Float[Tensor, "3 S S"], change: RandAugment) -> Float[Tensor, "3 S S"]:
    pixels = crop.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    found = np.asarray(change(Image.fromarray(pixels)), dtype=np.float32) / 255
    return torch.from_numpy(found).permute(2, 0, 1)

"""Where a student looks, held against its teacher: KL divergence of their class-token attention (Figs. 9-11).

N images, H heads, P patches; a row of attention has 1+P entries, the class token's first, as log-probabilities.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from attndistill.data.loading import evaluation_batches
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.evaluations import EVALUATIONS
from attndistill.losses.aggregation import geometric_mean
from attndistill.losses.interpolation import interpolate_attention
from attndistill.models.families import Backbone
from attndistill.models.kernels import images_at_once
from attndistill.models.readout import read_features


@dataclass(frozen=True)
class Maps:
    """Class-token attention of one model over a split: per head (N, H, 1+P), log-probabilities on its patch grid."""

    heads: Tensor
    grid: tuple[int, int]

    def aggregated(self, temperature: float) -> Float[Tensor, "N L"]:
        """Heads agreed into one map (AAG), (N, 1+P)."""
        found: Tensor = geometric_mean(self.heads, temperature=temperature)[:, 0]
        return found

    def chosen(self, images: list[int]) -> "Maps":
        """Of these images alone."""
        return Maps(self.heads[images], self.grid)

    def over_patches(self, rows: Tensor) -> NDArray[np.float32]:
        """Probabilities over the patch grid, the class token cut off."""
        patches: NDArray[np.float32] = rows[..., 1:].exp().unflatten(-1, self.grid).numpy().astype(np.float32)
        return patches


def look(
    backbone: Backbone,
    images: ImageSet,
    views: ViewRecipe,
    *,
    crop_share: float,
    batch_size: int,
    device: torch.device,
) -> Maps:
    """The maps of a model over a split, on the evaluation views."""
    backbone.to(device)
    rows = []
    with torch.no_grad():
        size = images_at_once(backbone, device, batch_size)
        for batch in evaluation_batches(images, views, crop_share=crop_share, batch_size=size):
            found = read_features(backbone, batch.images.to(device)).log_attention
            assert found is not None
            rows.append(found.cpu())
    height, width = backbone.patch_embed.grid_size
    return Maps(torch.cat(rows), (height, width))


@EVALUATIONS.register(
    "attention",
    title="KL to teacher",
    on="maps",
    figures={"kl_to_teacher": ("KL to teacher", "nats", "minimize", 3)},
)
def attention(
    teacher: Maps, student: Maps, *, temperature: Annotated[float, Field(gt=0)] = 10.0
) -> Float[Tensor, " N"]:
    """KL(teacher || student) of the aggregated maps on the student's grid, per image, in nats."""
    on_grid = interpolate_attention(teacher.heads, teacher.grid, student.grid)
    wanted = Maps(on_grid, student.grid).aggregated(temperature)
    distance: Tensor = (wanted.exp() * (wanted - student.aggregated(temperature))).sum(dim=-1)
    return distance


def protocol(temperature: float) -> str:
    """The name under which `attention` is measured."""
    return f"kl/aag-T{temperature:g}-v1"

"""Where a student looks, held against its teacher: KL divergence of their class-token attention (Figs. 9-11).

N images, H heads, P patches; a row of attention has 1+P entries, the class token's first, as log-probabilities.
"""

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from attndistill.evaluations import EVALUATIONS
from attndistill.losses.aggregation import geometric_mean
from attndistill.losses.interpolation import interpolate_attention


@dataclass(frozen=True)
class Maps:
    """Class-token attention of one model: per head (N, H, 1+P) on its patch grid."""

    heads: Tensor
    grid: tuple[int, int]

    def aggregated(self, temperature: float) -> Float[Tensor, "N L"]:
        """Heads agreed into one map (AAG), (N, 1+P)."""
        found: Tensor = geometric_mean(self.heads, temperature=temperature)[:, 0]
        return found


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

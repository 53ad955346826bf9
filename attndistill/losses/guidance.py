"""Attention guidance L_a (paper sec. 3): match where teacher and student look. Rows are class-token attention.

B batch, R rows (heads, or 1 after aggregation), N tokens (class token and patches).
"""

import math
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from attndistill.losses import GUIDANCE


def clamp_probabilities(log_attention: Float[Tensor, "B R N"], lowest: float, highest: float) -> Float[Tensor, "B R N"]:
    """Clamp probabilities to [lowest, highest] and renormalise, in log space.

    The official code clamps before it compares: it bounds what one token can cost.
    """
    clamped = log_attention.clamp(math.log(lowest), math.log(highest))
    return clamped.log_softmax(dim=-1)


@GUIDANCE.register("kl")
def kl_divergence(
    teacher: Float[Tensor, "B R N"],
    student: Float[Tensor, "B R N"],
    *,
    lowest: Annotated[float, Field(gt=0, le=0.1)] = 1e-5,
    highest: Annotated[float, Field(gt=0.1, le=1)] = 0.996,
) -> Float[Tensor, ""]:
    """KL(teacher || student), summed over rows and tokens, averaged over the batch ("batchmean").

    Args:
        teacher: log-probabilities.
        student: log-probabilities.
        lowest: smallest probability a token keeps.
        highest: largest.
    """
    teacher = clamp_probabilities(teacher, lowest, highest)
    student = clamp_probabilities(student, lowest, highest)
    return (teacher.exp() * (teacher - student)).sum() / len(teacher)


@GUIDANCE.register("mse")
def mean_squared_error(
    teacher: Float[Tensor, "B R N"],
    student: Float[Tensor, "B R N"],
    *,
    lowest: Annotated[float, Field(gt=0, le=0.1)] = 1e-5,
    highest: Annotated[float, Field(gt=0.1, le=1)] = 0.996,
) -> Float[Tensor, ""]:
    """Squared differences of probabilities, reduced like `kl` (Table 10 f)."""
    teacher = clamp_probabilities(teacher, lowest, highest).exp()
    student = clamp_probabilities(student, lowest, highest).exp()
    return (teacher - student).square().sum() / len(teacher)

"""Projector alignment (PA, paper sec. 3): the student's projected class token matches the teacher's."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# B batch, E teacher width


def projector_alignment(projected: Float[Tensor, "B E"], teacher: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """L_p: mean squared error over batch and channels between norm(P(student CLS)) and the teacher's normed CLS."""
    return F.mse_loss(projected, teacher.to(projected.dtype))

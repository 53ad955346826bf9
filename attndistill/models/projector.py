"""The projector P: from the student's class token to the teacher's (paper sec. 3; depth ablated in Table 10 d).

The published code starts P with a LayerNorm of the student's width and leaves the student's own final norm untrained.
Here the student's final norm *is* that LayerNorm: the same function, but the feature before P is a trained one.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attndistill.models.vit import seeded

# B batch, D student width, E teacher width


class Projector(nn.Module):
    """n linear layers with GELU between; hidden widths alternate 2 D, D, 2 D, ...; a LayerNorm of width E at the end.

    Args:
        embed_dim: student width D.
        teacher_dim: teacher width E.
        depth: linear layers n >= 1.
        seed: weights are a pure function of it.
    """

    def __init__(self, embed_dim: int, teacher_dim: int, depth: int, seed: int) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"projector depth {depth}; allowed: 1 or more")
        hidden = [(2 if layer % 2 == 0 else 1) * embed_dim for layer in range(depth - 1)]
        widths = [embed_dim, *hidden, teacher_dim]
        with seeded(seed, "projector"):
            self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.norm = nn.LayerNorm(teacher_dim, eps=1e-6)

    @property
    def depth(self) -> int:
        """Number of linear layers."""
        return len(self.layers)

    def forward(self, cls_token: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """The projected class token, in the space of the teacher's."""
        return self.after(cls_token, self.depth)

    def after(self, cls_token: Float[Tensor, "B D"], layer: int) -> Tensor:
        """The feature after `layer` layers: 0 is the class token itself, the last includes the final norm."""
        if not 0 <= layer <= self.depth:
            raise ValueError(f"projector layer {layer}; this projector has layers 0 to {self.depth}")
        for linear in self.layers[:layer]:
            cls_token = linear(cls_token)
            if linear is not self.layers[-1]:
                cls_token = nn.functional.gelu(cls_token)
        return self.norm(cls_token) if layer == self.depth else cls_token


class Student(nn.Module):
    """A backbone with the projector it was distilled through."""

    def __init__(self, backbone: nn.Module, projector: Projector) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's weights on the CPU, contiguous, ready for safetensors."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}

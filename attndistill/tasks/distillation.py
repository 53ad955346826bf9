"""Distillation as a task: projector alignment plus attention guidance (paper sec. 3)."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from attndistill.core.features import Features
from attndistill.data.loading import Batch
from attndistill.losses.alignment import projector_alignment
from attndistill.losses.interpolation import Grid, interpolate_attention
from attndistill.models.projector import Student
from attndistill.models.readout import read_features

# B batch; H heads and T tokens of the teacher, G and S of the student


@dataclass(frozen=True)
class Objective:
    """L = w_p L_p + lambda L_a.

    Attributes:
        alignment_weight: w_p.
        attention_weight: lambda; 0 leaves attention guidance out.
        aggregate: per-head log-attention -> rows to be matched (AAG or an alternative).
        compare: (teacher rows, student rows) -> L_a.
        teacher_grid: rows and columns of the teacher's patches.
        student_grid: likewise the student's; when they differ the teacher's is interpolated (AIP).
    """

    alignment_weight: float
    attention_weight: float
    aggregate: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]
    teacher_grid: Grid
    student_grid: Grid

    def attention_loss(self, teacher: Float[Tensor, "B H T"], student: Float[Tensor, "B G S"]) -> Float[Tensor, ""]:
        """L_a between per-head log-attentions: interpolate, aggregate, compare."""
        teacher = interpolate_attention(teacher, self.teacher_grid, self.student_grid)
        return self.compare(self.aggregate(teacher), self.aggregate(student))


class Distillation(nn.Module):
    """Batch -> "loss", "alignment" and (when lambda > 0) "attention".

    Args:
        student: backbone and projector, trained.
        teach: batch -> the teacher's features for those very views, from a cache or from the teacher itself.
        objective: weights and variants of the two losses.
    """

    def __init__(self, student: Student, teach: Callable[[Batch], Features], objective: Objective) -> None:
        super().__init__()
        self.student, self.teach, self.objective = student, teach, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.images.to(next(self.student.parameters()).device)
        teacher = self.teach(batch)
        student = read_features(self.student.backbone, images)
        alignment = projector_alignment(self.student.projector(student.cls_token), teacher.cls_token)
        loss = self.objective.alignment_weight * alignment
        losses = {"loss": loss, "alignment": alignment}
        if self.objective.attention_weight > 0:
            assert teacher.log_attention is not None
            assert student.log_attention is not None
            attention = self.objective.attention_loss(teacher.log_attention, student.log_attention)
            losses |= {"loss": loss + self.objective.attention_weight * attention, "attention": attention}
        return losses

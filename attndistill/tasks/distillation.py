"""Distillation as a task: projector alignment, attention guidance, and what they are compared with (paper sec. 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from attndistill.core.features import Features
from attndistill.data.loading import Batch
from attndistill.losses.alignment import projector_alignment
from attndistill.losses.embedding import EmbeddingLoss
from attndistill.losses.interpolation import Grid, interpolate_attention
from attndistill.losses.signals import Pairs
from attndistill.models.projector import Projector, Student
from attndistill.models.readout import read_fields

# B batch; H heads and T tokens of the teacher, G and S of the student


@dataclass(frozen=True)
class Objective:
    """L = w_p L_p + lambda L_a.

    Attributes:
        alignment_weight: w_p.
        attention_weight: lambda; 0 leaves attention guidance out.
        signal: (teacher, student) -> pairs of per-head log-attention rows to be matched.
        aggregate: per-head log-attention -> rows to be compared (AAG or an alternative).
        compare: (teacher rows, student rows) -> L_a.
        teacher_grid: rows and columns of the teacher's patches.
        student_grid: likewise the student's; when they differ the teacher's is interpolated (AIP).
        fields: optional fields of `Features` that the losses read of the student.
        interpolate: (teacher rows, teacher grid, student grid) -> rows on the student's grid.
    """

    alignment_weight: float
    attention_weight: float
    signal: Callable[[Features, Features], Pairs]
    aggregate: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]
    teacher_grid: Grid
    student_grid: Grid
    fields: Sequence[str] = ()
    interpolate: Callable[[Tensor, Grid, Grid], Tensor] = interpolate_attention

    def attention_loss(self, teacher: Features, student: Features) -> Float[Tensor, ""]:
        """L_a: interpolate, aggregate and compare each pair of rows; the mean over pairs."""
        pairs = self.signal(teacher, student)
        return sum((self._compared(*pair) for pair in pairs[1:]), self._compared(*pairs[0])) / len(pairs)

    def _compared(self, teacher: Float[Tensor, "B H T"], student: Float[Tensor, "B G S"]) -> Float[Tensor, ""]:
        teacher = self.interpolate(teacher, self.teacher_grid, self.student_grid)
        return self.compare(self.aggregate(teacher), self.aggregate(student))


class Distillation(nn.Module):
    """Batch -> "loss", "alignment", and where they are on "attention" (lambda > 0) and "embedding".

    Args:
        student: backbone and projector, trained.
        teach: batch -> the teacher's features for those very views, from a cache or from the teacher itself.
        objective: weights and variants of the two losses.
        embedding: a further loss on projected tokens (`losses/embedding.py`), or None.
    """

    def __init__(
        self,
        student: Student,
        teach: Callable[[Batch], Features],
        objective: Objective,
        embedding: EmbeddingLoss | None = None,
    ) -> None:
        super().__init__()
        self.student, self.teach, self.objective, self.embedding = student, teach, objective, embedding

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.images.to(next(self.student.parameters()).device)
        teacher = self.teach(batch)
        student = read_fields(self.student.backbone, images, self.objective.fields)
        projected = _projected(self.student.projector, student)
        alignment = projector_alignment(projected.cls_token, teacher.cls_token)
        loss = self.objective.alignment_weight * alignment
        losses = {"loss": loss, "alignment": alignment}
        if self.objective.attention_weight > 0:
            attention = self.objective.attention_loss(teacher, student)
            losses |= {"loss": loss + self.objective.attention_weight * attention, "attention": attention}
        if self.embedding is not None:
            embedding = self.embedding(teacher, projected)
            losses |= {"loss": losses["loss"] + self.embedding.weight * embedding, "embedding": embedding}
        return losses

    def after_update(self) -> None:
        """The images since the last call made one update (`EmbeddingLoss.after_update`)."""
        if self.embedding is not None:
            self.embedding.after_update()


def _projected(projector: Projector, student: Features) -> Features:
    """The student's tokens in the teacher's space."""
    patches = student.patch_tokens
    if patches is not None:
        patches = projector(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
    return Features(projector(student.cls_token), patch_tokens=patches)

"""Distillation of one student, from models, images and options: what the stage, a study's trial and Python call.

Options are the sections of `params.yaml` by their attributes; nothing here needs a project or a folder.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attndistill.core.features import Features
from attndistill.data.loading import Batch
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.losses import AGGREGATIONS, EMBEDDING_LOSSES, GUIDANCE, SIGNALS
from attndistill.losses.embedding import EmbeddingLoss, Setting
from attndistill.losses.fields import teacher_fields
from attndistill.losses.interpolation import interpolate_attention
from attndistill.losses.published import published_aggregation, published_interpolation
from attndistill.models.families import Backbone
from attndistill.models.projector import Projector, Student
from attndistill.models.vit import build_vit
from attndistill.runs import Execution, Look, Trained, train
from attndistill.targets import CachedTargets, LiveTeacher, identity_in
from attndistill.tasks.distillation import Distillation, Objective
from attndistill.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from attndistill.config import Distill, Targets

Teach = Callable[[Batch], Features]


def distil_student(
    teacher: Backbone,
    teach: Teach,
    images: ImageSet,
    views: ViewRecipe,
    sizes: Mapping[str, Any],
    options: "Distill",
    execution: Execution,
    checkpoint: Checkpoint,
    *,
    seed: int,
    stored_views: int,
    look: Look | None = None,
) -> Trained:
    """Train the student of one seed.

    Args:
        teacher: frozen; only its sizes are read where `teach` is a cache.
        teach: the teacher's answers to a batch of views.
        images: training images; their labels are not used.
        views: their views.
        sizes: of the student, keyword arguments of `build_vit`.
        options: losses and recipe, the section `distill`.
        execution: device, processes, progress.
        checkpoint: of this very run.
        seed: of the student's weights and of the order.
        stored_views: V: epoch e uses view e mod V.
        look: what else is to be known of an epoch; see `Look`.
    """
    backbone = build_vit(views.image_size, seed, **sizes)
    student = Student(backbone, Projector(backbone.embed_dim, teacher.embed_dim, options.projector_depth, seed))
    objective = build_objective(options, teacher, backbone)
    task = Distillation(student, teach, objective, _embedding_loss(options, teacher, objective, seed))
    history = train(
        task,
        options.recipe,
        images,
        views,
        checkpoint,
        execution,
        seed=seed,
        view_epoch=lambda epoch: epoch % stored_views,
        evaluate=lambda epoch: look(seed, backbone, epoch) if look else None,
        published=options.mode == "official_code",
        data_fraction=options.data_fraction,
    )
    return Trained(student, history, checkpoint)


def open_teaching(
    teacher: Backbone,
    options: "Distill",
    targets: "Targets",
    directory: Path,
    identity: Mapping[str, str],
    device: torch.device,
) -> Teach:
    """The teacher's answers: from the cache in `directory`, or from the teacher inside the step.

    Raises:
        ValueError: the cache is another one's (`identity` differs), or holds fewer views than the row takes.
    """
    fields = tuple(teacher_fields(options))
    if not targets.cache:
        return LiveTeacher(teacher, device, fields)
    cached = CachedTargets(directory, device, identity_in(targets.precision, identity), fields)
    if targets.views > cached.views:
        raise ValueError(
            f"targets.views is {targets.views}, but {directory} holds {cached.views}: run `targets` again, or set "
            f"targets.views to at most {cached.views}"
        )
    return cached


def build_objective(options: "Distill", teacher: Backbone, student: Backbone) -> Objective:
    """L = w_p L_p + lambda L_a of these options, for a teacher and a student of these patch grids."""
    aggregate = AGGREGATIONS.bind(options.aggregation.name, options.aggregation.options())
    interpolate: Callable[..., Tensor] = interpolate_attention
    if options.mode == "official_code":
        aggregated = options.aggregation.name != "none"
        interpolate = partial(published_interpolation, clamped_first=not aggregated)
        aggregate = partial(published_aggregation, aggregate=aggregate) if aggregated else aggregate
    return Objective(
        alignment_weight=options.alignment_weight,
        attention_weight=options.lambda_,
        signal=SIGNALS.bind(options.signal.name, options.signal.options()),
        aggregate=aggregate,
        compare=GUIDANCE.bind(options.attention_loss.name, options.attention_loss.options()),
        teacher_grid=teacher.patch_embed.grid_size,
        student_grid=student.patch_embed.grid_size,
        fields=tuple(teacher_fields(options)),
        interpolate=interpolate,
    )


def _embedding_loss(options: "Distill", teacher: Backbone, objective: Objective, seed: int) -> EmbeddingLoss | None:
    choice = options.embedding_loss
    if choice is None:
        return None
    setting = Setting(teacher.embed_dim, objective.teacher_grid, objective.student_grid, seed)
    loss: EmbeddingLoss = EMBEDDING_LOSSES.bind(choice.name, choice.options())(setting)
    return loss

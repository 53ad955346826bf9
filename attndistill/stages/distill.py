"""Stage 4: distil the teacher into a student, for one row of the rows file."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from attndistill.core.features import Features
from attndistill.data.loading import Batch
from attndistill.losses import AGGREGATIONS, EMBEDDING_LOSSES, GUIDANCE, SIGNALS
from attndistill.losses.embedding import EmbeddingLoss, Setting
from attndistill.losses.interpolation import interpolate_attention
from attndistill.losses.published import published_aggregation, published_interpolation
from attndistill.models.families import Backbone
from attndistill.models.projector import Projector, Student
from attndistill.models.storage import load_model
from attndistill.models.vit import build_vit
from attndistill.stages.context import Context
from attndistill.stages.runs import Trained, store, train, train_seeds
from attndistill.targets import CachedTargets, LiveTeacher
from attndistill.tasks.distillation import Distillation, Objective


def distill(context: Context) -> None:
    """Train and store the student of every seed, with its curves."""
    config = context.config
    images = context.images("train")
    teacher, _ = load_model(context.teacher_weights)
    inputs = context.targets_identity
    teach = _teach(context, teacher)

    def run(context: Context, seed: int) -> Trained:
        backbone = build_vit(config.views.image_size, seed, **config.student.plain())
        projector = Projector(backbone.embed_dim, teacher.embed_dim, config.distill.projector_depth, seed)
        student = Student(backbone, projector)
        objective = _objective(context, teacher, backbone)
        task = Distillation(student, teach, objective, _embedding_loss(context, teacher, objective, seed))
        checkpoint = context.checkpoint(seed, inputs, "student", "views", "targets", "distill")
        views, watch = config.targets.views, context.watch
        history = train(
            task,
            config.distill.recipe,
            images,
            context,
            checkpoint,
            seed=seed,
            view_epoch=lambda epoch: epoch % views,
            evaluate=lambda epoch: watch(seed, backbone, epoch) if watch else None,
            published=config.distill.mode == "official_code",
        )
        return Trained(student, history, checkpoint)

    trained = train_seeds(context, config.distill.recipe, images, run)
    if context.is_main:
        store(context, "distill", config.student.plain(), trained)


def _teach(context: Context, teacher: Backbone) -> Callable[[Batch], Features]:
    """The teacher's answers: from the cache, or from the teacher inside the step.

    Raises:
        ValueError: the cache is another one's, or holds fewer views than the row takes.
    """
    options, directory = context.config.targets, context.layout.targets
    fields = tuple(context.config.distill.needs)
    if not options.cache:
        return LiveTeacher(teacher, context.device, fields)
    cached = CachedTargets(directory, context.device, context.targets_identity, fields)
    if options.views > cached.views:
        raise ValueError(
            f"targets.views is {options.views}, but {directory} holds {cached.views}: run `targets` again, or set "
            f"targets.views to at most {cached.views}"
        )
    return cached


def _objective(context: Context, teacher: Backbone, student: Backbone) -> Objective:
    options = context.config.distill
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
        fields=tuple(options.needs),
        interpolate=interpolate,
    )


def _embedding_loss(context: Context, teacher: Backbone, objective: Objective, seed: int) -> EmbeddingLoss | None:
    choice = context.config.distill.embedding_loss
    if choice is None:
        return None
    setting = Setting(teacher.embed_dim, objective.teacher_grid, objective.student_grid, seed)
    loss: EmbeddingLoss = EMBEDDING_LOSSES.bind(choice.name, choice.options())(setting)
    return loss

"""What an image costs, counted by the very models that the stages run, on tensors without values. Nothing is computed.

FLOPs are torch's count (matrix products, convolutions, attention; two for a multiplication and an addition). Bytes are
of attention done plainly, the whole matrix of every head: fused kernels keep less, so memory is an upper bound.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attndistill.config import Config
from attndistill.core.features import Features
from attndistill.costs.counting import FAKE, Alive, counted
from attndistill.losses import EMBEDDING_LOSSES
from attndistill.losses.embedding import Setting
from attndistill.losses.fields import teacher_fields
from attndistill.models.kernels import images_at_once
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.projector import Projector
from attndistill.models.readout import read_fields
from attndistill.models.vit import build_vit
from attndistill.targets import bytes_per_answer
from attndistill.tasks.finetuning import FineTuning, Regularisation

Sizes = tuple[tuple[str, Any], ...]  # of a ViT, hashable: rows share most counts


@dataclass(frozen=True)
class Step:
    """One image through a training step, the frozen teacher's part left out.

    Attributes:
        flops: forward and backward.
        trained: parameters.
        activations: bytes kept for the backward pass in the recipe's precision, an upper bound.
        queue: bytes that a loss carries from update to update (CompRess), whatever the batch.
    """

    flops: int
    trained: int
    activations: int
    queue: int = 0


@dataclass(frozen=True)
class Reading:
    """One image through a frozen backbone.

    Attributes:
        flops: forward.
        parameters: of the backbone.
        largest: bytes in fp32 that are alive together at the worst moment, the image among them; an upper bound.
        on_cpu: images at once on a CPU (`images_at_once`).
    """

    flops: int
    parameters: int
    largest: int
    on_cpu: int


def masked_autoencoding_step(config: Config, sizes: Mapping[str, Any]) -> Step:
    """Of pre-training an encoder of these sizes."""
    size, encoder = config.views.image_size, _vit(config.views.image_size, sizes)
    with torch.device("meta"):
        model = MaskedAutoencoder(encoder, 0, **config.pretrain.decoder.plain())
    patches = encoder.patch_embed.num_patches
    visible = round(patches * (1 - config.pretrain.mask_ratio))

    def loss(images: int) -> Tensor:
        order = torch.empty(images, patches, dtype=torch.int64)
        return model(_images(images, size), order, visible)  # type: ignore[no-any-return]

    flops, kept = counted(loss, config.pretrain.recipe.precision, model)
    return Step(flops, _parameters(model), kept)


def distillation_step(config: Config) -> Step:
    """Of a row's student: all that its losses read of it, forward and backward."""
    chosen, guided = config.distill.embedding_loss, config.distill.lambda_ > 0
    student = _student_step(
        config.views.image_size,
        _hashable(config.student.plain()),
        (config.teacher.embed_dim, config.distill.projector_depth),
        (*teacher_fields(config.distill), *(("log_attention",) if guided else ())),
        config.distill.recipe.precision,
    )
    if chosen is None:
        return student
    loss = _embedding_loss(config.teacher.embed_dim, chosen.name, _hashable(chosen.options()))
    return replace(
        student, flops=student.flops + loss.flops, activations=student.activations + loss.activations, queue=loss.queue
    )


def student_flops(image_size: int, sizes: Sizes) -> int:
    """One image forward and backward through a student of these sizes, its class token and its attention read."""
    student = _vit(image_size, dict(sizes))

    def loss(images: int) -> Tensor:
        read = read_fields(student, _images(images, image_size), ("log_attention",))
        assert read.log_attention is not None
        return read.cls_token.sum() + read.log_attention.sum()

    return counted(loss, "fp32", student)[0]


def fine_tuning_step(config: Config, sizes: Mapping[str, Any], pooled: bool, classes: int, precision: str) -> Step:
    """Of fine-tuning a backbone of these sizes under a head for so many classes."""
    step = _tuned(config.views.image_size, _hashable(sizes), pooled, precision)
    width = int(sizes["embed_dim"])  # of a class: a product forward, two backward, a row of weights and a bias
    more = classes - 1
    return replace(step, flops=step.flops + 6 * width * more, trained=step.trained + (width + 1) * more)


@cache
def _tuned(image_size: int, sizes: Sizes, pooled: bool, precision: str) -> Step:
    """With a head for one class."""
    with torch.device("meta"):
        task = FineTuning(_vit(image_size, dict(sizes)), 1, 0, Regularisation(0.0, 0.0, 0.0, 0.0, 2), pooled=pooled)
    flops, kept = counted(lambda images: task.logits(_images(images, image_size)).sum(), precision, task)
    return Step(flops, _parameters(task), kept)


def teacher_reading(config: Config) -> Reading:
    """Of the teacher's answer: what the cache stores, or what a row asks of the teacher inside its step."""
    fields = config.targets.extra if config.targets.cache else teacher_fields(config.distill)
    return _reading(config.views.image_size, _hashable(config.teacher.sizes()), tuple(fields))


def backbone_reading(config: Config, sizes: Mapping[str, Any]) -> Reading:
    """Of a backbone's class token and its attention, as probes and pictures read them."""
    return _reading(config.views.image_size, _hashable(sizes), ())


def cache_bytes(config: Config) -> int:
    """Of one view of one image in the cache."""
    return bytes_per_answer(_vit(config.views.image_size, config.teacher.sizes()), config.targets.extra)


def projector_parameters(config: Config) -> int:
    """Of P."""
    return _parameters(_projector(config.student.embed_dim, (config.teacher.embed_dim, config.distill.projector_depth)))


def projected_width(config: Config) -> int:
    """Of a class token after `probe.projector_layer` layers of P, from 1."""
    projector = _projector(config.student.embed_dim, (config.teacher.embed_dim, config.distill.projector_depth))
    layer: Any = projector.layers[config.probe.projector_layer - 1]
    return int(layer.out_features)


@cache
def _student_step(
    image_size: int,
    sizes: Sizes,
    projector_sizes: tuple[int, int],
    compared: tuple[str, ...],
    precision: str,
) -> Step:
    student = _vit(image_size, dict(sizes))
    projector = _projector(student.embed_dim, projector_sizes)

    def loss(images: int) -> Tensor:
        read = read_fields(student, _images(images, image_size), compared)
        rows = [projector(read.cls_token)]
        if "log_attention" in compared:
            rows += [read.log_attention, read.value_norms, *(read.layer_attention or ())]
        if read.patch_tokens is not None:
            rows.append(projector(read.patch_tokens.flatten(0, 1)))
        return torch.stack([row.sum() for row in rows if row is not None]).sum()

    flops, kept = counted(loss, precision, student, projector)
    return Step(flops, _parameters(student) + _parameters(projector), kept)


@cache
def _embedding_loss(teacher_dim: int, name: str, options: Sizes) -> Step:
    """Of an embedding loss on class tokens. Patch tokens are compared by value; P's work on them is the student's.

    No autocast: a loss for which it matters takes itself out of it.
    """
    with FAKE:
        compare = EMBEDDING_LOSSES.bind(name, dict(options))(Setting(teacher_dim, (1, 1), (1, 1), 0))

    def loss(images: int) -> Tensor:
        wanted, found = (torch.empty(images, teacher_dim, requires_grad=learned) for learned in (False, True))
        teacher, projected = (Features(rows, patch_tokens=rows[:, None]) for rows in (wanted, found))
        return compare(teacher, projected)  # type: ignore[no-any-return]

    flops, kept = counted(loss, "fp32", compare)
    return Step(flops, 0, kept, sum(buffer.nbytes for buffer in compare.buffers()))


@cache
def _reading(image_size: int, sizes: Sizes, fields: tuple[str, ...]) -> Reading:
    vit = _vit(image_size, dict(sizes)).eval()
    alive = Alive(vit)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), alive:
        with torch.device("meta"):
            images = _images(1, image_size)
        read_fields(vit, images, fields)
    on_cpu = images_at_once(vit, torch.device("cpu"), sys.maxsize)
    return Reading(counter.get_total_flops(), _parameters(vit), alive.largest, on_cpu)


def _projector(embed_dim: int, sizes: tuple[int, int]) -> Projector:
    """P, for a teacher of the first size and with so many layers as the second says."""
    with torch.device("meta"):
        return Projector(embed_dim, *sizes, 0)


def _vit(image_size: int, sizes: Mapping[str, Any]) -> VisionTransformer:
    with torch.device("meta"):
        return build_vit(image_size, 0, **sizes)


def _images(images: int, image_size: int) -> Tensor:
    return torch.empty(images, 3, image_size, image_size)


def _hashable(options: Mapping[str, Any]) -> Sizes:
    return tuple(options.items())


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

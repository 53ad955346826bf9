"""What a step costs, counted on the meta device by the very models that the stages train. Nothing is computed.

FLOPs are torch's count (matrix products, convolutions, attention; two for a multiplication and an addition). Bytes kept
for the backward pass are those that autograd saves with plain attention: fused kernels keep less.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attndistill.config import Config
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.projector import Projector
from attndistill.models.readout import read_fields
from attndistill.models.vit import build_vit
from attndistill.targets import bytes_per_answer


@dataclass(frozen=True)
class Step:
    """One image through a training step.

    Attributes:
        flops: forward and backward, and the frozen teacher's forward where it runs inside the step.
        trained, frozen: parameters.
        activations: bytes in fp32 kept for the backward pass, an upper bound.
    """

    flops: int
    trained: int
    frozen: int
    activations: int


def masked_autoencoding_step(config: Config, sizes: Mapping[str, Any]) -> Step:
    """Of pre-training an encoder of these sizes."""
    encoder = build_vit(config.views.image_size, 0, **sizes)
    model = MaskedAutoencoder(encoder, 0, **config.pretrain.decoder.plain()).to("meta")
    patches = encoder.patch_embed.num_patches
    order = torch.empty(1, patches, dtype=torch.int64, device="meta")
    visible = round(patches * (1 - config.pretrain.mask_ratio))
    flops, kept = _counted(lambda: model(_image(config), order, visible), model)
    return Step(flops, _parameters(model), 0, kept)


def distillation_step(config: Config) -> Step:
    """Of a row: the student forward and backward; the teacher forward unless its answers are cached."""
    student, projector = _student(config)
    fields = tuple(config.distill.needs)

    def loss() -> Tensor:
        read = read_fields(student, _image(config), fields)
        assert read.log_attention is not None
        total: Tensor = projector(read.cls_token).sum() + read.log_attention.sum()
        return total

    flops, kept = _counted(loss, student, projector)
    frozen = 0 if config.targets.cache else _parameters(_teacher(config))
    taught = 0 if config.targets.cache else teacher_flops(config)
    return Step(flops + taught, _parameters(student) + _parameters(projector), frozen, kept)


def linear_probe_step(config: Config, sizes: Mapping[str, Any]) -> Step:
    """Of a linear probe of a backbone of these sizes: its forward pass; the classifier's own cost is left out."""
    vit = build_vit(config.views.image_size, 0, **sizes).to("meta").eval()
    with torch.no_grad():
        flops, _ = _counted(lambda: read_fields(vit, _image(config), ()).cls_token)
    return Step(flops, 0, _parameters(vit), 0)


def teacher_flops(config: Config) -> int:
    """Of the teacher's answer for one image."""
    teacher, fields = _teacher(config), (*config.targets.extra, *config.distill.needs)
    with torch.no_grad():
        return _counted(lambda: read_fields(teacher, _image(config), fields).cls_token)[0]


def cache_bytes(config: Config) -> int:
    """Of one view of one image in the cache."""
    return bytes_per_answer(_teacher(config), config.targets.extra)


def projector_parameters(config: Config) -> int:
    """Of P."""
    return _parameters(_student(config)[1])


def _teacher(config: Config) -> nn.Module:
    vit: nn.Module = build_vit(config.views.image_size, 0, **config.teacher.sizes())
    return vit.to("meta").eval()


def _student(config: Config) -> tuple[nn.Module, Projector]:
    backbone = build_vit(config.views.image_size, 0, **config.student.plain()).to("meta")
    projector = Projector(backbone.embed_dim, config.teacher.embed_dim, config.distill.projector_depth, 0)
    return backbone, projector.to("meta")


def _image(config: Config) -> Tensor:
    return torch.empty(1, 3, config.views.image_size, config.views.image_size, device="meta")


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _counted(loss: Callable[[], Tensor], *trained: nn.Module) -> tuple[int, int]:
    """(FLOPs of the loss and of its backward pass where it has one, bytes saved in between, weights left out)."""
    weights = {parameter.untyped_storage()._cdata for module in trained for parameter in module.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss()
        if value.requires_grad:
            value.sum().backward()
    return counter.get_total_flops(), sum(size for storage, size in saved.items() if storage not in weights)

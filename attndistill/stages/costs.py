"""What an image costs, counted on the meta device by the very models that the stages run. Nothing is computed.

FLOPs are torch's count (matrix products, convolutions, attention; two for a multiplication and an addition). Bytes are
of attention done plainly, the whole matrix of every head: fused kernels keep less, so memory is an upper bound.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attndistill.config import Config
from attndistill.core.features import Features
from attndistill.losses import EMBEDDING_LOSSES
from attndistill.losses.embedding import Setting
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.projector import Projector
from attndistill.models.readout import read_fields
from attndistill.models.vit import build_vit
from attndistill.targets import bytes_per_answer

Sizes = tuple[tuple[str, Any], ...]  # of a ViT, hashable: rows share most counts


@dataclass(frozen=True)
class Step:
    """One image through a training step, the frozen teacher's part left out.

    Attributes:
        flops: forward and backward.
        trained: parameters.
        activations: bytes in fp32 kept for the backward pass, an upper bound.
        similarities: bytes kept for it in fp32 whatever the recipe's precision (CompRess).
        queue: bytes that a loss carries from update to update (CompRess), whatever the batch.
    """

    flops: int
    trained: int
    activations: int
    similarities: int = 0
    queue: int = 0


@dataclass(frozen=True)
class Reading:
    """One image through a frozen backbone.

    Attributes:
        flops: forward.
        parameters: of the backbone.
        largest: bytes in fp32 that are alive together at the worst moment, the image among them; an upper bound.
    """

    flops: int
    parameters: int
    largest: int


def masked_autoencoding_step(config: Config, sizes: Mapping[str, Any]) -> Step:
    """Of pre-training an encoder of these sizes."""
    with torch.device("meta"):
        encoder = build_vit(config.views.image_size, 0, **sizes)
        model = MaskedAutoencoder(encoder, 0, **config.pretrain.decoder.plain())
    patches = encoder.patch_embed.num_patches
    order = torch.empty(1, patches, dtype=torch.int64, device="meta")
    visible = round(patches * (1 - config.pretrain.mask_ratio))
    flops, kept = _counted(lambda: model(_image(config.views.image_size), order, visible), model)
    return Step(flops, _parameters(model), kept)


def distillation_step(config: Config) -> Step:
    """Of a row's student: all that its losses read of it, forward and backward."""
    chosen = config.distill.embedding_loss
    student = _student_step(
        config.views.image_size,
        _hashable(config.student.plain()),
        (config.teacher.embed_dim, config.distill.projector_depth),
        tuple(config.distill.needs),
        config.distill.lambda_ > 0,
    )
    if chosen is None:
        return student
    flops, kept, queue = _embedding_loss(config.teacher.embed_dim, chosen.name, _hashable(chosen.options()))
    return Step(student.flops + flops, student.trained, student.activations, kept, queue)


def teacher_reading(config: Config) -> Reading:
    """Of the teacher's answer: what the cache stores, or what a row asks of the teacher inside its step."""
    fields = config.targets.extra if config.targets.cache else config.distill.needs
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
    image_size: int, sizes: Sizes, projector_sizes: tuple[int, int], fields: tuple[str, ...], guided: bool
) -> Step:
    student = _vit(image_size, dict(sizes))
    projector = _projector(student.embed_dim, projector_sizes)

    def loss() -> Tensor:
        read = read_fields(student, _image(image_size), fields)
        compared = [projector(read.cls_token)]
        if guided:
            compared += [read.log_attention, read.value_norms, *(read.layer_attention or ())]
        if read.patch_tokens is not None:
            compared.append(projector(read.patch_tokens.flatten(0, 1)))
        return torch.stack([rows.sum() for rows in compared if rows is not None]).sum()

    flops, kept = _counted(loss, student, projector)
    return Step(flops, _parameters(student) + _parameters(projector), kept)


@cache
def _embedding_loss(teacher_dim: int, name: str, options: Sizes) -> tuple[int, int, int]:
    """(FLOPs, bytes kept, bytes of buffers) of what an embedding loss does with class tokens.

    Patch tokens are compared value by value: no FLOPs by torch's count, and P's part is the student's.
    """
    with FakeTensorMode():  # not meta: the loss asks for the autocast of its device, and meta has none
        loss = EMBEDDING_LOSSES.bind(name, dict(options))(Setting(teacher_dim, (1, 1), (1, 1), 0))
        wanted = Features(torch.empty(1, teacher_dim), patch_tokens=torch.empty(1, 1, teacher_dim))
        cls_token = torch.empty(1, teacher_dim, requires_grad=True)
        found = Features(cls_token, patch_tokens=cls_token[:, None])
        flops, kept = _counted(lambda: loss(wanted, found), loss)
        return flops, kept, sum(buffer.nbytes for buffer in loss.buffers())


@cache
def _reading(image_size: int, sizes: Sizes, fields: tuple[str, ...]) -> Reading:
    vit = _vit(image_size, dict(sizes)).eval()
    alive = _Alive(vit)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), alive:
        read_fields(vit, _image(image_size), fields)
    return Reading(counter.get_total_flops(), _parameters(vit), alive.largest)


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made inside of it that are alive together, weights left out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = self._now = 0
        self._known = _storages(module)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor) and made.untyped_storage()._cdata not in self._known:
                self._add(made.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self._now += storage.nbytes()
        self.largest = max(self.largest, self._now)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size


def _counted(loss: Callable[[], Tensor], *modules: nn.Module) -> tuple[int, int]:
    """(FLOPs of the loss and of its backward pass, bytes saved in between, the modules' own left out)."""
    own = set().union(*map(_storages, modules))
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), saved_tensors_hooks(keep, lambda tensor: tensor):
        loss().sum().backward()
    return counter.get_total_flops(), sum(size for storage, size in saved.items() if storage not in own)


def _projector(embed_dim: int, sizes: tuple[int, int]) -> Projector:
    """P, for a teacher of the first size and with so many layers as the second says."""
    with torch.device("meta"):
        return Projector(embed_dim, *sizes, 0)


def _vit(image_size: int, sizes: Mapping[str, Any]) -> VisionTransformer:
    with torch.device("meta"):
        return build_vit(image_size, 0, **sizes)


def _image(image_size: int) -> Tensor:
    return torch.empty(1, 3, image_size, image_size, device="meta")


def _hashable(options: Mapping[str, Any]) -> Sizes:
    return tuple(options.items())


def _storages(module: nn.Module) -> set[int]:
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

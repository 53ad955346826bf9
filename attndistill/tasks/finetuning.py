"""Fine-tuning as a task: the whole backbone and a new head learn from labels, by the recipes of DeiT, BEiT and MAE.

Mixing, smoothing, the soft-target loss and the groups of layer decay are timm's. What is drawn (which images are mixed
and how, which paths are dropped) comes from the counter: a pure function of (seed, epoch, index), whatever the ranks
and micro-batches. Images are mixed in groups of a fixed size, cut from the batch in its order, as DeiT mixes those of
one device. The readout's shortcuts do not serve here: timm's own forward pass drops paths.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attndistill.core.generators import borrowed, numbers
from attndistill.core.randomness import uniforms
from attndistill.data.loading import Batch
from attndistill.models.projector import Projector
from attndistill.models.vit import seeded

# B batch, S side of a view, C classes, D width, T tokens

_HEAD_STD = 2e-5  # of the head's first weights: MAE's, and DeiT's 0.02 scaled by 0.001 as DINO and BEiT do it


@dataclass(frozen=True)
class Regularisation:
    """What keeps fine-tuning from overfitting, beside the augmentation of single views.

    Attributes:
        drop_path: chance that a block's branch is left out for an image; grows linearly from 0 at the first block.
        mixup, cutmix: parameters of the beta distribution; 0 leaves one out. Each is taken half of the time.
        smoothing: share of a label that is spread over all classes.
        group: images that are mixed together, an even number.
    """

    drop_path: float
    mixup: float
    cutmix: float
    smoothing: float
    group: int

    @property
    def mixes(self) -> bool:
        return bool(self.mixup or self.cutmix)


class DropPath(nn.Module):
    """Leaves a branch out for the images that `keep` says, and scales it up for the others.

    Args:
        rate: chance to be left out.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.keep: Tensor | None = None

    def forward(self, branch: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if not self.training:
            return branch
        assert self.keep is not None
        return branch * (self.keep / (1 - self.rate)).to(branch.dtype)[:, None, None]


class Average(nn.Module):
    """A running average of a module's trained parameters, one step of it an update (DeiT's, timm's `ModelEmaV2`).

    It lies in buffers, so that a resume checkpoint holds it and a resumed run goes on with the same bytes.

    Args:
        module: whose parameters; the average starts at them.
        decay: share of the average that an update keeps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        for number, parameter in enumerate(module.parameters()):
            self.register_buffer(str(number), parameter.detach().clone())

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """One update."""
        torch._foreach_lerp_(list(self.buffers()), [p.detach() for p in module.parameters()], 1 - self.decay)

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """The module has the average's weights while this lasts."""
        parameters = list(module.parameters())
        kept = [parameter.data for parameter in parameters]
        for parameter, averaged in zip(parameters, self.buffers(), strict=True):
            parameter.data = averaged
        try:
            yield
        finally:
            for parameter, own in zip(parameters, kept, strict=True):
                parameter.data = own


class FineTuning(nn.Module):
    """Batch -> soft-target cross-entropy of the head's answers; everything is trained, positions too.

    Args:
        backbone: copied, so that others may judge it after this.
        classes: C.
        seed: first weights, mixes and dropped paths are pure functions of it.
        regularisation: while it is trained.
        layer_decay: d; what is k layers below the head learns at d^k of the rate. 1: all at the same.
        pooled: the head judges the mean of the patches after a new LayerNorm (MAE), else the class token.
        projector: layers of P that are kept under the head, or None.
        ema_decay: of the average of the weights that is kept beside the model; 0: none is.
    """

    def __init__(
        self,
        backbone: Any,
        classes: int,
        seed: int,
        regularisation: Regularisation,
        *,
        layer_decay: float = 1.0,
        pooled: bool = False,
        projector: nn.Module | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.seed, self.regularisation, self.layer_decay, self.pooled = seed, regularisation, layer_decay, pooled
        self.backbone: Any = deepcopy(backbone).requires_grad_(True)
        self.projector = nn.Identity() if projector is None else deepcopy(projector).requires_grad_(True)
        width = int(self.backbone.embed_dim)
        self.norm: nn.Module = nn.LayerNorm(width, eps=1e-6) if pooled else nn.Identity()
        if pooled:
            self.backbone.norm = self.backbone.fc_norm = nn.Identity()
        linears = [module for module in self.projector.modules() if isinstance(module, nn.Linear)]
        with seeded(seed, "head"):
            self.head = nn.Linear(linears[-1].out_features if linears else width, classes)
            nn.init.trunc_normal_(self.head.weight, std=_HEAD_STD)
        nn.init.zeros_(self.head.bias)
        self.paths = _drop_paths(self.backbone.blocks, regularisation.drop_path)
        self.loss = SoftTargetCrossEntropy()
        self.average = Average(self, ema_decay) if ema_decay else None
        if self.average is not None:  # every rank makes the same one: nothing is to be sent
            alone = [f"average.{name}" for name, _ in self.average.named_buffers()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, alone)

    def after_update(self) -> None:
        """The average follows the weights, where there is one."""
        if self.average is not None:
            self.average.follow(self)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """By layer; vectors, class token and positions are not decayed. What is new learns at the full rate, so does
        the final norm: timm counts it to the last block and gives both the full rate; BEiT, MAE and iBOT do not.
        """
        groups: list[dict[str, Any]] = param_groups_layer_decay(
            self.backbone,
            weight_decay=weight_decay,
            no_weight_decay_list=self.backbone.no_weight_decay(),
            layer_decay=self.layer_decay,
        )
        final = {id(p) for norm in (self.backbone.norm, self.backbone.fc_norm) for p in norm.parameters()}
        new = [p for p in self.backbone.parameters() if id(p) in final]
        new += [p for part in (self.projector, self.norm, self.head) for p in part.parameters()]
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in final]
            group["lr_scale"] *= self.layer_decay
        matrices, vectors = ([p for p in new if (p.ndim > 1) == matrix] for matrix in (True, False))
        return [*groups, {"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        device = self.head.weight.device
        images, targets = self.mixed(batch.images.to(device), batch.labels.to(device), batch)
        kept = uniforms(self.seed, "paths", batch.epoch, batch.indices, len(self.paths))
        for path, draws in zip(self.paths, kept.T, strict=True):
            path.keep = torch.from_numpy(draws >= path.rate).to(device)
        return {"loss": self.loss(self.logits(images), targets)}

    def mixed(
        self, images: Float[Tensor, "B 3 S S"], labels: Int[Tensor, " B"], batch: Batch
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        """Images and soft labels: each group mixed with itself in reverse, by draws of its first image."""
        options, classes = self.regularisation, self.head.out_features
        if not options.mixes:
            return images, mixup_target(labels, classes, smoothing=options.smoothing)
        mix = Mixup(options.mixup, options.cutmix, label_smoothing=options.smoothing, num_classes=classes)
        given = numbers(self.seed, "mix", batch.epoch, batch.indices[:: options.group])
        found = []
        with borrowed() as seed:
            for number, part, of_part in zip(
                given, images.clone().split(options.group), labels.split(options.group), strict=True
            ):
                seed(number)
                found.append(mix(part, of_part))
        return torch.cat([part for part, _ in found]), torch.cat([target for _, target in found])

    def logits(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        """What the head says of these images."""
        tokens = self.backbone.forward_features(images.to(self.head.weight.device))
        if self.pooled:
            feature = self.norm(tokens[:, self.backbone.num_prefix_tokens :].mean(dim=1))
        else:
            feature = self.backbone.fc_norm(tokens[:, 0])
        logits: Tensor = self.head(self.projector(feature))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def first_layers(projector: Projector, layers: int) -> nn.Module:
    """The first layers of P, each with its GELU.

    Raises:
        ValueError: as many as P has, or more: its last one makes the teacher's token.
    """
    if layers >= projector.depth:
        raise ValueError(f"keep_projector_layer {layers}; this model's P allows 0 to {projector.depth - 1}")
    return nn.Sequential(*[part for linear in projector.layers[:layers] for part in (linear, nn.GELU())])


def _drop_paths(blocks: Any, most: float) -> list[DropPath]:
    """Put two into every block, in place of timm's, in the order of the forward pass; none where `most` is 0."""
    if not most:
        return []
    paths = []
    for block, rate in zip(blocks, np.linspace(0, most, len(blocks)).tolist(), strict=True):
        for branch in ("drop_path1", "drop_path2"):
            setattr(block, branch, DropPath(rate))
            paths.append(getattr(block, branch))
    return paths

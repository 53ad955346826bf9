"""Linear probing as a task: a linear classifier on frozen features of random views (MAE's protocol; Table 9)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attndistill.core.ranks import of_all_ranks
from attndistill.data.loading import Batch
from attndistill.models.projector import Projector
from attndistill.models.readout import read_features
from attndistill.models.vit import seeded

# B batch, S side of a view, C classes, D width of a feature


class GroupNormalisation(nn.Module):
    """Batch norm without parameters, its statistics those of a fixed number of images, in the order of the batch.

    So micro-batches and ranks change no figure. The running statistics take the groups of an update one after another
    (momentum 0.1), as `BatchNorm1d` takes its batches.

    Args:
        width: D.
        size: images of a group; a batch is a multiple of it.
    """

    running_mean: Tensor
    running_var: Tensor
    _EPSILON, _MOMENTUM = 1e-6, 0.1

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self._seen: list[Tensor] = []

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        if not self.training:
            return (features - self.running_mean) * (self.running_var + self._EPSILON).rsqrt()
        groups = features.unflatten(0, (-1, self.size))
        variance, mean = torch.var_mean(groups, dim=1, keepdim=True, correction=0)
        unbiased = variance * (self.size / (self.size - 1))
        self._seen.append(torch.cat([mean, unbiased], dim=1).detach())
        normed: Tensor = (groups - mean) * (variance + self._EPSILON).rsqrt()
        return normed.flatten(0, 1)

    def after_update(self) -> None:
        """The groups of the update enter the running statistics."""
        for mean, variance in of_all_ranks(torch.cat(self._seen)):
            self.running_mean.lerp_(mean, self._MOMENTUM)
            self.running_var.lerp_(variance, self._MOMENTUM)
        self._seen.clear()


class LinearProbing(nn.Module):
    """Batch -> cross-entropy of the classifier; the backbone learns nothing.

    A batch norm without parameters stands before the classifier, as in MAE's code: features of different models come at
    different scales, and one learning rate is to do for all.

    Args:
        backbone: frozen here.
        classes: C.
        seed: the classifier's first weights are a pure function of it.
        statistics: images that one mean and deviation of the batch norm are taken over.
        projector: P, frozen here; needed for a layer above 0.
        layer: the feature is the class token after this layer of P; 0 is before P.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        seed: int,
        *,
        statistics: int,
        projector: Projector | None = None,
        layer: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.projector = None if projector is None else projector.requires_grad_(False)
        self.layer = layer
        width = int(backbone.embed_dim)  # type: ignore[arg-type]
        if layer:
            assert projector is not None
            width = int(projector.layers[layer - 1].out_features)  # type: ignore[arg-type]
        self.norm = GroupNormalisation(width, statistics)
        self.classifier = nn.Linear(width, classes)
        with seeded(seed, "linear probe"):
            nn.init.trunc_normal_(self.classifier.weight, std=0.01)
            nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> "LinearProbing":
        """The backbone stays as it is evaluated."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch.labels.to(self.classifier.weight.device)
        return {"loss": nn.functional.cross_entropy(self.logits(batch.images), labels)}

    def after_update(self) -> None:
        """The images since the last call made one update."""
        self.norm.after_update()

    def logits(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        """What the classifier says of these images."""
        with torch.no_grad():
            feature = read_features(self.backbone, images.to(self.classifier.weight.device)).cls_token
            if self.layer:
                assert self.projector is not None
                feature = self.projector.after(feature, self.layer)
        logits: Tensor = self.classifier(self.norm(feature.float()))
        return logits

"""Linear probing as a task: a linear classifier on frozen features of random views (MAE's protocol; Table 9)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attndistill.data.loading import Batch
from attndistill.models.projector import Projector
from attndistill.models.readout import read_features
from attndistill.models.vit import seeded

# B batch, S side of a view, C classes


class LinearProbing(nn.Module):
    """Batch -> cross-entropy of the classifier; the backbone learns nothing.

    A batch norm without parameters stands before the classifier, as in MAE's code: features of different models come at
    different scales, and one learning rate is to do for all. Its statistics are those of a micro-batch.

    Args:
        backbone: frozen here.
        classes: C.
        seed: the classifier's first weights are a pure function of it.
        projector: P, frozen here; needed for a layer above 0.
        layer: the feature is the class token after this layer of P; 0 is before P.
    """

    def __init__(
        self, backbone: nn.Module, classes: int, seed: int, *, projector: Projector | None = None, layer: int = 0
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.projector = None if projector is None else projector.requires_grad_(False)
        self.layer = layer
        width = int(backbone.embed_dim)  # type: ignore[arg-type]
        if layer:
            assert projector is not None
            width = int(projector.layers[layer - 1].out_features)  # type: ignore[arg-type]
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
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

    def logits(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        """What the classifier says of these images."""
        with torch.no_grad():
            feature = read_features(self.backbone, images.to(self.classifier.weight.device)).cls_token
            if self.layer:
                assert self.projector is not None
                feature = self.projector.after(feature, self.layer)
        logits: Tensor = self.classifier(self.norm(feature.float()))
        return logits

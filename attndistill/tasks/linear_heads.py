"""Many linear probes in one pass: heads that differ in learning rate and feature share every reading of the backbone.

Heads never meet: the loss is the sum of theirs, so that each learns as it would alone. All heads of a feature lie in
one tensor, answer by one product and move by one update (`training.optimizers.Headwise`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attndistill.data.loading import Batch
from attndistill.models.readout import read_last_blocks
from attndistill.models.vit import seeded

# B batch, S side of a view, C classes, H heads of a feature, K heads in all, L last blocks, M 1 or 0, D width


class Feature(NamedTuple):
    """What heads judge: class tokens of the last blocks, and the mean of the last one's patches or not."""

    blocks: int
    patch_mean: bool

    def __str__(self) -> str:
        tokens = f"CLS of the last {self.blocks} blocks" if self.blocks > 1 else "CLS of the last block"
        return f"{tokens} and patch mean" if self.patch_mean else tokens


class LinearHeads(nn.Module):
    """Batch -> the sum of the heads' cross-entropies; the backbone learns nothing.

    Args:
        backbone: frozen here.
        classes: C.
        seed: first weights are a pure function of it and of the feature, the same for every rate.
        features: each is judged at every rate.
        rates: of the H heads of a feature, times the learning rate.
        stored: batch -> class tokens of some last blocks and the mean of the last one's patches, in place of a reading
            of the backbone while the heads learn.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        seed: int,
        *,
        features: Sequence[Feature],
        rates: Sequence[float],
        stored: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.stored = stored
        self.backbone = backbone.requires_grad_(False)
        self.features, self.rates = tuple(features), tuple(rates)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for feature in features:
            width = (feature.blocks + feature.patch_mean) * int(backbone.embed_dim)  # type: ignore[arg-type]
            with seeded(seed, f"linear heads on {feature}"):
                first = torch.empty(classes, width).normal_(std=0.01)
            self.weights.append(nn.Parameter(first.repeat(len(rates), 1, 1)))
            self.biases.append(nn.Parameter(torch.zeros(len(rates), classes)))

    @property
    def heads(self) -> list[tuple[Feature, float]]:
        """Feature and rate of every head, in the order of `logits`."""
        return [(feature, rate) for feature in self.features for rate in self.rates]

    def train(self, mode: bool = True) -> "LinearHeads":
        """The backbone stays as it is evaluated."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.stored is None:
            logits = self.logits(batch.images)
        else:
            tokens = self.stored(batch).to(self.biases[0])
            logits = self._answers(tokens[:, :-1], tokens[:, -1:])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = batch.labels.to(logits.device)[:, None].expand(logits.shape[:2])
        total = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return {"loss": total / len(batch.labels)}

    def logits(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B K C"]:
        """What every head says of these images."""
        most = max(feature.blocks for feature in self.features)
        patch_mean = any(feature.patch_mean for feature in self.features)
        with torch.no_grad():
            tokens = read_last_blocks(self.backbone, images.to(self.biases[0].device), most, patch_mean=patch_mean)
        tokens = tokens.to(self.biases[0].dtype)
        return self._answers(tokens[:, :most], tokens[:, most:])

    def _answers(self, class_tokens: Float[Tensor, "B L D"], mean: Float[Tensor, "B M D"]) -> Float[Tensor, "B K C"]:
        """From the class tokens of the last blocks and the mean of the patches, where somebody judges it."""
        answers = []
        for feature, weights, biases in zip(self.features, self.weights, self.biases, strict=True):
            rows = class_tokens[:, -feature.blocks :]
            rows = torch.cat([rows, mean], dim=1) if feature.patch_mean else rows
            answer = nn.functional.linear(rows.flatten(1), weights.flatten(0, 1), biases.flatten())
            answers.append(answer.unflatten(1, biases.shape))
        return torch.cat(answers, dim=1)

"""Masked autoencoding as a task: pre-training without labels (supplementary sec. 4)."""

import torch
from torch import Tensor, nn

from attndistill.core.randomness import uniforms
from attndistill.data.loading import Batch
from attndistill.models.mae import MaskedAutoencoder


class MaskedAutoencoding(nn.Module):
    """Batch -> reconstruction loss, with masks that are a pure function of (seed, epoch, index).

    Args:
        model: the masked autoencoder.
        seed: key of the masks.
        mask_ratio: share of patches hidden from the encoder.
    """

    def __init__(self, model: MaskedAutoencoder, seed: int, *, mask_ratio: float) -> None:
        super().__init__()
        self.model, self.seed = model, seed
        self.patches = model.pos_embed.shape[1] - 1
        self.visible = round(self.patches * (1 - mask_ratio))
        if not 0 < self.visible < self.patches:
            raise ValueError(f"mask ratio {mask_ratio} leaves {self.visible} of {self.patches} patches visible")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        device = self.model.mask_token.device
        noise = uniforms(self.seed, "mask", batch.epoch, batch.indices, self.patches)
        order = torch.from_numpy(noise.argsort(axis=1, kind="stable")).to(device)
        return {"loss": self.model(batch.images.to(device), order, self.visible)}

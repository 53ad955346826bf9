"""Masked autoencoding (supplementary sec. 4; He et al., CVPR 2022): how the embedded teacher learns without labels.

Which patches are hidden is handed in, not drawn here: masks are a pure function of (seed, epoch, index) like views.
"""

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from attndistill.models.vit import fix_sincos_positions, seeded

# B batch, N patches, M visible and K painted ones, T = 1 + M tokens, D width, P values of one patch


class MaskedAutoencoder(nn.Module):
    """An encoder that sees a quarter of the patches, and a light decoder that paints the others.

    Args:
        encoder: the backbone that is kept.
        embed_dim: decoder width.
        depth: decoder blocks.
        num_heads: decoder heads.
        normalize_pixels: predict patches of zero mean and unit variance.
        sees: "tokens": all that the encoder gives; "class_token": that one alone. It has to hold the whole image then,
            so the patches that the encoder saw are painted too.
        seed: the decoder's weights are a pure function of it.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        seed: int,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        normalize_pixels: bool,
        sees: str = "tokens",
    ) -> None:
        super().__init__()
        self.encoder, self.normalize_pixels = encoder, normalize_pixels
        patch_size, grid = encoder.patch_embed.patch_size[0], encoder.patch_embed.grid_size
        self.patch_size, self.class_token_alone = patch_size, sees == "class_token"
        with seeded(seed, "decoder"):
            self.to_decoder = nn.Linear(encoder.embed_dim, embed_dim)
            self.mask_token = nn.Parameter(torch.randn(1, 1, embed_dim) * 0.02)
            self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, qkv_bias=True) for _ in range(depth)))
            self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
            self.to_pixels = nn.Linear(embed_dim, 3 * patch_size**2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], embed_dim))
        fix_sincos_positions(self.pos_embed, grid)

    def forward(self, images: Float[Tensor, "B 3 S S"], order: Int[Tensor, "B N"], visible: int) -> Tensor:
        """Mean squared error over the patches that are painted: the hidden ones, or all from the class token alone.

        Args:
            images: normalised views.
            order: a permutation of the patches per image; the first `visible` are shown to the encoder.
            visible: M.
        """
        shown = order[:, :visible]
        painted = order if self.class_token_alone else order[:, visible:]
        predicted = self._decode(self._encode(images, shown), shown, painted)
        wanted = self._patches(images)
        wanted = wanted.gather(1, painted.unsqueeze(-1).expand(-1, -1, wanted.shape[-1]))
        if self.normalize_pixels:
            wanted = _standardised(wanted)
        return F.mse_loss(predicted.to(wanted.dtype), wanted)

    def _encode(self, images: Tensor, shown: Int[Tensor, "B M"]) -> Float[Tensor, "B T D"]:
        encoder = self.encoder
        positions = encoder.pos_embed
        patches = encoder.patch_embed(images) + positions[:, 1:]
        patches = patches.gather(1, shown.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
        cls_token = (encoder.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        return encoder.norm(encoder.blocks(torch.cat([cls_token, patches], dim=1)))  # type: ignore[no-any-return]

    def _decode(
        self, encoded: Float[Tensor, "B T D"], shown: Int[Tensor, "B M"], painted: Int[Tensor, "B K"]
    ) -> Float[Tensor, "B K P"]:
        """Pixels of the painted patches. Tokens stay shown first, painted last: attention knows places, not order."""
        positions = self.pos_embed[0]
        places = positions[:1].expand(len(shown), 1, -1)
        if self.class_token_alone:
            encoded = encoded[:, :1]
        else:
            places = torch.cat([places, positions[1:][shown]], dim=1)
        blank = self.mask_token + positions[1:][painted]
        tokens = self.to_decoder(encoded) + places
        tokens = self.blocks(torch.cat([tokens, blank.to(tokens.dtype)], dim=1))
        return self.to_pixels(self.norm(tokens[:, -painted.shape[1] :]))  # type: ignore[no-any-return]

    def _patches(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N P"]:
        side = self.patch_size
        cut = images.unfold(2, side, side).unfold(3, side, side)  # B 3 rows columns side side
        return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def _standardised(patches: Float[Tensor, "B K P"]) -> Float[Tensor, "B K P"]:
    """(x - mean) / sqrt(variance + 1e-6) of every patch, the variance unbiased as in He et al.

    layer_norm does it in one pass with the biased variance: the factor between the two is taken out of eps and root.
    """
    share = (patches.shape[-1] - 1) / patches.shape[-1]
    normed: Tensor = F.layer_norm(patches, patches.shape[-1:], eps=1e-6 * share)
    return normed * float(share**0.5)

"""Masked autoencoding (supplementary sec. 4; He et al., CVPR 2022): how the embedded teacher learns without labels.

Which patches are hidden is handed in, not drawn here: masks are a pure function of (seed, epoch, index) like views.
"""

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from attndistill.models.vit import fix_sincos_positions, seeded

# B batch, N patches, M visible patches, T = 1 + M tokens, D width, P values of one patch


class MaskedAutoencoder(nn.Module):
    """An encoder that sees a quarter of the patches, and a light decoder that paints the others.

    Args:
        encoder: the backbone that is kept.
        embed_dim: decoder width.
        depth: decoder blocks.
        num_heads: decoder heads.
        normalize_pixels: predict patches of zero mean and unit variance.
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
    ) -> None:
        super().__init__()
        self.encoder, self.normalize_pixels = encoder, normalize_pixels
        patch_size, grid = encoder.patch_embed.patch_size[0], encoder.patch_embed.grid_size
        self.patch_size = patch_size
        with seeded(seed, "decoder"):
            self.to_decoder = nn.Linear(encoder.embed_dim, embed_dim)
            self.mask_token = nn.Parameter(torch.randn(1, 1, embed_dim) * 0.02)
            self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, qkv_bias=True) for _ in range(depth)))
            self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
            self.to_pixels = nn.Linear(embed_dim, 3 * patch_size**2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], embed_dim))
        fix_sincos_positions(self.pos_embed, grid)

    def forward(self, images: Float[Tensor, "B 3 S S"], order: Int[Tensor, "B N"], visible: int) -> Tensor:
        """Mean squared error over the hidden patches.

        Args:
            images: normalised views.
            order: a permutation of the patches per image; the first `visible` are shown to the encoder.
            visible: M.
        """
        predicted = self._decode(self._encode(images, order[:, :visible]), order)
        wanted = self._patches(images)
        if self.normalize_pixels:
            mean, variance = wanted.mean(dim=-1, keepdim=True), wanted.var(dim=-1, keepdim=True)
            wanted = (wanted - mean) / (variance + 1e-6).sqrt()
        error = (predicted.to(wanted.dtype) - wanted).square().mean(dim=-1)
        return error.gather(1, order[:, visible:]).mean()

    def _encode(self, images: Tensor, shown: Int[Tensor, "B M"]) -> Float[Tensor, "B T D"]:
        encoder = self.encoder
        positions = encoder.pos_embed
        patches = encoder.patch_embed(images) + positions[:, 1:]
        patches = patches.gather(1, shown.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
        cls_token = (encoder.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        return encoder.norm(encoder.blocks(torch.cat([cls_token, patches], dim=1)))  # type: ignore[no-any-return]

    def _decode(self, encoded: Float[Tensor, "B T D"], order: Int[Tensor, "B N"]) -> Float[Tensor, "B N P"]:
        tokens = self.to_decoder(encoded)
        hidden = self.mask_token.to(tokens.dtype).expand(len(tokens), order.shape[1] - tokens.shape[1] + 1, -1)
        shuffled = torch.cat([tokens[:, 1:], hidden], dim=1)
        place = order.argsort(dim=1).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens[:, :1], shuffled.gather(1, place)], dim=1) + self.pos_embed
        return self.to_pixels(self.norm(self.blocks(tokens)))[:, 1:]  # type: ignore[no-any-return]

    def _patches(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N P"]:
        side = self.patch_size
        cut = images.unfold(2, side, side).unfold(3, side, side)  # B 3 rows columns side side
        return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)

"""Vision transformers on timm, by width, depth, heads and patch size (Table 7).

timm's weights and names are the field's lingua franca: a student saved here loads into timm and back.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from attndistill.core.randomness import derived_seed


def build_vit(
    image_size: int,
    seed: int,
    *,
    embed_dim: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    mlp_ratio: float,
    position: str,
) -> VisionTransformer:
    """A randomly initialised ViT without a classification head.

    Args:
        image_size: side of the square input, pixels; a multiple of `patch_size`.
        seed: weights are a pure function of it; the global generator is left as it was.
        embed_dim: width D; a multiple of `num_heads` (and of 4 for sin-cos positions).
        depth: transformer blocks.
        num_heads: attention heads per block.
        patch_size: side of a patch, pixels.
        mlp_ratio: hidden width of a block's MLP / `embed_dim`.
        position: "learnable" or "sincos" (fixed, two-dimensional, zero for the class token).
    """
    with seeded(seed, "weights"):
        vit = VisionTransformer(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            num_classes=0,
        )
    if position == "sincos":
        fix_sincos_positions(vit.pos_embed, vit.patch_embed.grid_size)
    return vit


def fix_sincos_positions(pos_embed: nn.Parameter, grid: tuple[int, int]) -> None:
    """Overwrite (1, 1 + N, D) position embeddings by the fixed sin-cos ones and freeze them."""
    if not pos_embed.is_meta:  # see `models.weightless`
        with torch.no_grad():
            pos_embed[0, 0] = 0
            pos_embed[0, 1:] = build_sincos2d_pos_embed(list(grid), dim=pos_embed.shape[-1], interleave_sin_cos=True)
    pos_embed.requires_grad_(False)


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model, fixed position embeddings included (as Table 7 counts them)."""
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's generators for the length of a block, then put them back."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, purpose))
        yield

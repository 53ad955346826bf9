"""Released vision transformers: what their tensors say about their architecture, and building it again on timm.

Width, depth, patch, tokens, registers, LayerScale and qk-norm stand in the tensors' shapes. The number of heads does
not: DINO, MAE, iBOT and Mugs all use heads of width 64, which is the rule unless the number is given. Models whose
shapes do not tell enough (rotary positions: DINOv3) are named by their timm name.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Any

import timm
from timm.layers import LayerNorm, SwiGLUPacked, build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, allclose, nn

_HEAD_WIDTH = 64


@dataclass(frozen=True)
class Architecture:
    """A vision transformer with a class token, as far as its tensors tell.

    Attributes:
        image_size: side of the square input its positions are for, pixels.
        patch_size: side of a patch, pixels.
        embed_dim: width D.
        depth: transformer blocks.
        num_heads: heads per block.
        hidden: width of a block's MLP before its activation (both gates of a gated one).
        registers: register tokens.
        cls_position: whether the class token (and registers) have entries in the position embedding.
        layer_scale: LayerScale after attention and MLP.
        qk_norm: LayerNorm on queries and keys.
        qkv_bias: bias of the qkv projection.
        pre_norm: a norm before the first block.
        final_norm: a norm after the last.
        gated: SwiGLU in the MLP.
    """

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    hidden: int
    registers: int = 0
    cls_position: bool = True
    layer_scale: bool = False
    qk_norm: bool = False
    qkv_bias: bool = True
    pre_norm: bool = False
    final_norm: bool = True
    gated: bool = False

    @property
    def tokens(self) -> int:
        """Class token, registers and patches."""
        return 1 + self.registers + (self.image_size // self.patch_size) ** 2

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def build(self) -> VisionTransformer:
        """A model of this architecture; its weights are random."""
        gated: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if self.gated else {}
        return VisionTransformer(
            img_size=self.image_size,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=self.hidden / self.embed_dim,
            num_classes=0,
            global_pool="token",
            reg_tokens=self.registers,
            no_embed_class=not self.cls_position,
            init_values=1.0 if self.layer_scale else None,
            qk_norm=self.qk_norm,
            qkv_bias=self.qkv_bias,
            pre_norm=self.pre_norm,
            final_norm=self.final_norm,
            norm_layer=LayerNorm if self.qk_norm else None,
            **gated,
        )


def architecture_of(weights: Mapping[str, Tensor], *, num_heads: int | None, final_norm: bool) -> Architecture:
    """Read an architecture from a state dict under timm's names.

    Raises:
        ValueError: not a square-patch ViT with a class token and an absolute position embedding, or heads that do not
            divide its width.
    """
    blocks = {
        int(name.split(".")[1]) for name in weights if name.startswith("blocks.") and name.split(".")[1].isdigit()
    }
    patch, positions = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    if patch is None or patch.ndim != 4 or not blocks or "blocks.0.mlp.fc1.weight" not in weights:
        raise ValueError("no patch embedding or no blocks under timm's names: it is no vision transformer")
    if "cls_token" not in weights:
        raise ValueError("it has no class token: attention distillation matches where the class token looks")
    if positions is None or positions.ndim != 3:
        raise ValueError("it has no position embedding (rotary positions?): give its timm name")
    width, _, side, other = patch.shape
    if side != other:
        raise ValueError(f"its patches are {side} x {other}; only square ones are read")
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    grid, cls_position = _grid(positions.shape[1], registers)
    first, second = weights["blocks.0.mlp.fc1.weight"], weights.get("blocks.0.mlp.fc2.weight")
    return Architecture(
        image_size=grid * side,
        patch_size=side,
        embed_dim=width,
        depth=max(blocks) + 1,
        num_heads=_heads(width, num_heads),
        hidden=first.shape[0],
        registers=registers,
        cls_position=cls_position,
        layer_scale="blocks.0.ls1.gamma" in weights,
        qk_norm="blocks.0.attn.q_norm.weight" in weights,
        qkv_bias="blocks.0.attn.qkv.bias" in weights,
        pre_norm="norm_pre.weight" in weights,
        final_norm=final_norm,
        gated=second is not None and second.shape[-1] * 2 == first.shape[0],
    )


def _heads(width: int, given: int | None) -> int:
    heads = given or width // _HEAD_WIDTH
    if not heads or width % heads or (given is None and width % _HEAD_WIDTH):
        said = f"num_heads {given}" if given else f"heads of width {_HEAD_WIDTH} (the rule of released models)"
        raise ValueError(f"{said} do not divide its width {width}: give num_heads, a divisor of {width}")
    return heads


def _grid(entries: int, registers: int) -> tuple[int, bool]:
    for patches, cls_position in ((entries - 1 - registers, True), (entries, False)):
        if patches > 0 and isqrt(patches) ** 2 == patches:
            return isqrt(patches), cls_position
    raise ValueError(f"its position embedding has {entries} entries, which is no square grid with a class token")


def named(timm_name: str, image_size: int | None = None) -> nn.Module:
    """A timm model by name, its weights random and without a classifier. Raises ValueError for a name timm lacks."""
    if ":" in timm_name:  # hf-hub:..., local-dir:...: those would fetch or read a configuration from elsewhere
        raise ValueError(f"timm_name {timm_name!r}: a plain timm name is wanted, such as vit_small_patch16_224.dino")
    size = {} if image_size is None else {"img_size": image_size}
    try:
        model: nn.Module = timm.create_model(timm_name, pretrained=False, num_classes=0, **size)
    except RuntimeError:
        near = timm.list_models(f"*{timm_name.split('.')[0][:12]}*")[:4] or timm.list_models("vit_small*")[:4]
        raise ValueError(f"timm has no model {timm_name!r}; it has, for example: {', '.join(near)}") from None
    return model


def position_type(model: nn.Module) -> str:
    """ "sincos", "learnable", "rotary" or "none": what a model's positions are."""
    if getattr(model, "rope", None) is not None:
        return "rotary"
    positions = getattr(model, "pos_embed", None)
    if positions is None:
        return "none"
    if not isinstance(model, VisionTransformer) or model.no_embed_class or model.embed_dim % 4:
        return "learnable"
    fixed = build_sincos2d_pos_embed(list(model.patch_embed.grid_size), dim=model.embed_dim, interleave_sin_cos=True)
    patches = positions[0, model.num_prefix_tokens :].detach().float()
    return "sincos" if allclose(patches, fixed, atol=1e-4) else "learnable"

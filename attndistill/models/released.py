"""Released vision transformers: what their tensors say about their architecture, and building it again on timm.

Width, depth, patch, tokens, registers, LayerScale and qk-norm stand in the tensors' shapes. The number of heads does
not, unless queries have a norm: DINO, MAE, iBOT and Mugs use heads of width 64 up to ViT-L, and the largest released
ViTs have 16 (MAE's ViT-H: width 80). Models whose shapes do not tell enough are named by their timm name: rotary
positions (DINOv3), and a norm before the blocks (CLIP's kind: its activation and epsilon leave no trace in a shape).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Any

import timm
from timm.layers import LayerNorm, SwiGLUPacked, build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, allclose, cat, device, nn

_HEAD_WIDTH = 64
_LARGE = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # width -> heads: so400m, ViT-H, ViT-g, ViT-G


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
            mlp_ratio=(self.hidden + 0.5) / self.embed_dim,  # timm rounds the product down
            num_classes=0,
            global_pool="token",
            reg_tokens=self.registers,
            no_embed_class=not self.cls_position,
            init_values=1.0 if self.layer_scale else None,
            qk_norm=self.qk_norm,
            qkv_bias=self.qkv_bias,
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
    blocks = {int(parts[1]) for name in weights if (parts := name.split("."))[0] == "blocks" and parts[1].isdecimal()}
    if not blocks or not {"patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} <= set(weights):
        raise ValueError(_no_vit(weights))
    if blocks != set(range(len(blocks))):  # one stray number must not build a thousand blocks
        raise ValueError(f"its {len(blocks)} blocks are not numbered 0 to {len(blocks) - 1} (one is {max(blocks)})")
    if "cls_token" not in weights:
        raise ValueError("it has no class token: attention distillation matches where the class token looks")
    if "pos_embed" not in weights:
        raise ValueError("it has no position embedding (rotary positions?): give its timm name")
    if "dist_token" in weights:
        raise ValueError("it has a distillation token beside the class token (DeiT's distilled models): not read")
    if "norm_pre.weight" in weights:
        raise ValueError(
            "a norm before its blocks (CLIP's kind): the tensors do not tell its activation; give its timm name"
        )
    width, _, side, other = _shape(weights, "patch_embed.proj.weight", 4)
    if side != other:
        raise ValueError(f"its patches are {side} x {other}; only square ones are read")
    registers = _shape(weights, "reg_token", 3)[1] if "reg_token" in weights else 0
    grid, cls_position = _grid(_shape(weights, "pos_embed", 3)[1], registers)
    hidden = _shape(weights, "blocks.0.mlp.fc1.weight", 2)[0]
    gated = "blocks.0.mlp.fc2.weight" in weights and 2 * _shape(weights, "blocks.0.mlp.fc2.weight", 2)[1] == hidden
    return Architecture(
        image_size=grid * side,
        patch_size=side,
        embed_dim=width,
        depth=len(blocks),
        num_heads=_heads(weights, width, num_heads),
        hidden=hidden,
        registers=registers,
        cls_position=cls_position,
        layer_scale="blocks.0.ls1.gamma" in weights,
        qk_norm="blocks.0.attn.q_norm.weight" in weights,
        qkv_bias="blocks.0.attn.qkv.bias" in weights,
        final_norm=final_norm,
        gated=gated,
    )


def _no_vit(weights: Mapping[str, Tensor]) -> str:
    """Why there is none; the same names under a prefix are a ViT that somebody wrapped."""
    first = "patch_embed.proj.weight"
    prefixes = sorted({name.removesuffix(first) for name in weights if name.endswith(f".{first}")})
    if not prefixes:
        return "no patch embedding or no blocks under timm's names: it is no vision transformer"
    several = f" (and {', '.join(prefixes[1:])})" if len(prefixes) > 1 else ""
    advice = "keep those names without it, and save them with safetensors.torch.save_file"
    return f"its names start with {prefixes[0]!r}{several}, which no known format has: {advice}"


def _shape(weights: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    shape = tuple(weights[name].shape)
    if len(shape) != dimensions or not all(shape):
        raise ValueError(f"{name} is {list(shape)}; wanted {dimensions} dimensions, none of them empty")
    return shape


def _heads(weights: Mapping[str, Tensor], width: int, given: int | None) -> int:
    normed = "blocks.0.attn.q_norm.weight"
    head_width = _shape(weights, normed, 1)[0] if normed in weights else _HEAD_WIDTH
    ruled = _LARGE.get(width) if normed not in weights else None
    heads = (ruled or width // head_width) if given is None else given
    if heads < 1 or width % heads or (given is None and ruled is None and width % head_width):
        said = (
            f"num_heads {given}" if given is not None else f"heads of width {head_width} (the rule of released models)"
        )
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


def heads_and_width(timm_name: str) -> tuple[int, int] | None:
    """Heads and width of a vision transformer of timm's, None for any other name."""
    if not timm.is_model(timm_name):
        return None
    with device("meta"):  # its weights are not wanted
        model: Any = timm.create_model(timm_name, pretrained=False, num_classes=0)
    return (model.blocks[0].attn.num_heads, model.embed_dim) if isinstance(model, VisionTransformer) else None


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
    columns_first = cat([*reversed(fixed.chunk(2, dim=1))], dim=1)  # MAE's order; rows come first in timm's
    same = any(allclose(patches, wanted.to(patches.device), atol=1e-4) for wanted in (fixed, columns_first))
    return "sincos" if same else "learnable"

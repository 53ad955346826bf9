"""Released vision transformers: what their tensors say about their architecture, and building it again on timm.

Width, depth, patch, tokens, registers, LayerScale and qk-norm stand in the tensors' shapes. The number of heads does
not, unless queries have a norm: DINO, MAE, iBOT and Mugs use heads of width 64 up to ViT-L, and the largest released
ViTs have 16 (MAE's ViT-H: width 80). Models whose shapes do not tell enough are named by their timm name: rotary
positions under timm's names, and a norm before the blocks (CLIP's kind: its activation and epsilon leave no trace).

Reading shapes needs neither torch nor timm: what has a `shape` will do.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from math import isqrt
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from attndistill.core.words import shown

_HEAD_WIDTH = 64
_LARGE = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # width -> heads: so400m, ViT-H, ViT-g, ViT-G
_LARGE_ROTARY = {4096: 32}  # DINOv3's 7B; its ViT-H+ has 20 of width 64
_LARGEST_GRID = 512  # patches a side: what positions are computed or resampled for stays under 1 GB
_ADDED = {"norm_eps": 1e-6, "rope_temperature": None}  # left out of model.json where they are what they always were
_BLOCK = re.compile(r"blocks\.(\d{1,6})\.")
_NAMES_SHOWN = 3
Shapes = Mapping[str, Any]
Positive = Annotated[int, Field(gt=0)]
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=STRICT)
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
        norm_eps: epsilon of the norms.
        rope_temperature: of DINOv3's rotary positions; None for a position embedding.
    """

    image_size: Positive
    patch_size: Positive
    embed_dim: Positive
    depth: Positive
    num_heads: Positive
    hidden: Positive
    registers: Annotated[int, Field(ge=0)] = 0
    cls_position: bool = True
    layer_scale: bool = False
    qk_norm: bool = False
    qkv_bias: bool = True
    final_norm: bool = True
    gated: bool = False
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    rope_temperature: Annotated[float, Field(gt=0)] | None = None

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: value for name, value in asdict(self).items() if (name, value) not in _ADDED.items()}

    def build(self) -> Any:
        """A model of this architecture; its weights are random."""
        from timm.layers import LayerNorm, SwiGLUPacked
        from timm.models.eva import Eva
        from timm.models.vision_transformer import VisionTransformer
        from torch import nn

        check_image_size(self.image_size, self.patch_size)
        normed = self.qk_norm or self.norm_eps != _ADDED["norm_eps"]
        common: dict[str, Any] = {
            **{name: getattr(self, name) for name in ("patch_size", "embed_dim", "depth", "num_heads", "qkv_bias")},
            "img_size": self.image_size,
            "num_classes": 0,
            "global_pool": "token",
            "init_values": 1.0 if self.layer_scale else None,
            "norm_layer": partial(LayerNorm, eps=self.norm_eps) if normed else None,
        }
        if self.rope_temperature is not None:
            hidden = self.hidden // 2 if self.gated else self.hidden
            return Eva(
                **{**common, "norm_layer": partial(LayerNorm, eps=self.norm_eps)},
                mlp_ratio=(hidden + 0.5) / self.embed_dim,
                swiglu_mlp=self.gated,
                swiglu_align_to=int(self.gated),
                num_reg_tokens=self.registers,
                use_abs_pos_emb=False,
                use_rot_pos_emb=True,
                rope_type="dinov3",
                rope_temperature=self.rope_temperature,
                rope_rotate_half=True,
                dynamic_img_size=True,
                use_fc_norm=False,
            )
        gated: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if self.gated else {}
        return VisionTransformer(
            **common,
            mlp_ratio=(self.hidden + 0.5) / self.embed_dim,  # timm rounds the product down
            reg_tokens=self.registers,
            no_embed_class=not self.cls_position,
            qk_norm=self.qk_norm,
            final_norm=self.final_norm,
            **gated,
        )


class NoVitError(ValueError):
    """Names that are those of no vision transformer."""


class MisfitError(ValueError):
    """Tensors that are not the model's; `count` says how many."""

    def __init__(self, problem: str, count: int) -> None:
        super().__init__(problem)
        self.count = count


def architecture_of(
    weights: Shapes,
    *,
    num_heads: int | None,
    final_norm: bool = True,
    norm_eps: float = 1e-6,
    rope_temperature: float | None = None,
    image_size: int | None = None,
) -> Architecture:
    """Read an architecture from a state dict under timm's names.

    Args:
        weights: names -> what has a shape.
        num_heads: heads per block; None takes the rule of released models.
        final_norm: whether a trained norm ends the backbone.
        norm_eps: epsilon of the norms.
        rope_temperature: of rotary positions, for which tensors tell no image size; None wants a position embedding.
        image_size: for rotary positions; None takes 16 patches a side.

    Raises:
        ValueError: not a square-patch ViT with a class token and positions, or heads that do not divide its width.
    """
    sizes = sizes_of(weights, num_heads=num_heads, rotary=rope_temperature is not None)
    registers = _shape(weights, "reg_token", 3)[1] if "reg_token" in weights else 0
    cls_position = True
    if rope_temperature is None:
        if "pos_embed" not in weights:
            raise ValueError("it has no position embedding (rotary positions?): give its timm name")
        grid, cls_position = _grid(_shape(weights, "pos_embed", 3)[1], registers)
        image_size = grid * sizes["patch_size"]
    return Architecture(
        **sizes,
        image_size=16 * sizes["patch_size"] if image_size is None else image_size,
        registers=registers,
        cls_position=cls_position,
        layer_scale=bool({"blocks.0.ls1.gamma", "blocks.0.gamma_1"} & set(weights)),
        qk_norm="blocks.0.attn.q_norm.weight" in weights,
        qkv_bias=bool({"blocks.0.attn.qkv.bias", "blocks.0.attn.q_bias"} & set(weights)),
        final_norm=final_norm,
        norm_eps=norm_eps,
        rope_temperature=rope_temperature,
    )


def sizes_of(weights: Shapes, *, num_heads: int | None, rotary: bool = False) -> dict[str, Any]:
    """Width, depth, heads, patch, hidden width and gating, from shapes under timm's names.

    Raises:
        ValueError: not a square-patch ViT with a class token, or heads that do not divide its width.
    """
    blocks = block_numbers(weights)
    first = next((name for name in ("fc1", "fc1_g") if f"blocks.0.mlp.{name}.weight" in weights), None)
    if not blocks or first is None or "patch_embed.proj.weight" not in weights:
        raise NoVitError("no patch embedding or no blocks under timm's names: it is no vision transformer")
    if blocks != set(range(len(blocks))):  # one stray number must not build a thousand blocks
        raise ValueError(f"its {len(blocks)} blocks are not numbered 0 to {len(blocks) - 1} (one is {max(blocks)})")
    if "cls_token" not in weights:
        raise ValueError("it has no class token: attention distillation matches where the class token looks")
    if "norm_pre.weight" in weights:
        raise ValueError(
            "a norm before its blocks (CLIP's kind): the tensors do not tell its activation; give its timm name"
        )
    width, _, side, other = _shape(weights, "patch_embed.proj.weight", 4)
    if side != other:
        raise ValueError(f"its patches are {side} x {other}; only square ones are read")
    hidden = _shape(weights, f"blocks.0.mlp.{first}.weight", 2)[0] * (2 if first == "fc1_g" else 1)
    last = "blocks.0.mlp.fc2.weight"
    return {
        "embed_dim": width,
        "depth": len(blocks),
        "num_heads": _heads(weights, width, num_heads, rotary),
        "patch_size": side,
        "hidden": hidden,
        "gated": last in weights and 2 * _shape(weights, last, 2)[1] == hidden,
    }


def block_numbers(weights: Shapes) -> set[int]:
    """The numbers of a state dict's blocks."""
    return {int(found[1]) for name in weights if (found := _BLOCK.match(name))}


def expected_shapes(build: Callable[[int], Any], depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model of `depth` equal blocks, without its memory.

    Args:
        build: depth -> such a model; asked for one block on torch's meta device, whatever size a file claims.
        depth: blocks.
    """
    from attndistill.models.weightless import weightless

    with weightless():
        one = {name: tuple(tensor.shape) for name, tensor in build(1).state_dict().items()}
    within = {name.removeprefix("blocks.0."): shape for name, shape in one.items() if name.startswith("blocks.0.")}
    rest = {name: shape for name, shape in one.items() if not name.startswith("blocks.0.")}
    return rest | {f"blocks.{block}.{name}": shape for block in range(depth) for name, shape in within.items()}


def check_shapes(weights: Shapes, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Every tensor that is wanted, in its shape, and no other. Raises MisfitError naming the first of each kind."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = {
        "missing": [name for name in wanted if name not in shapes],
        "left over": [shown(name) for name in shapes if name not in wanted],
        "of another shape": [
            f"{name} is {list(shapes[name])}, wanted {list(shape)}"
            for name, shape in wanted.items()
            if shapes.get(name, shape) != shape
        ],
    }
    said = [
        f"{len(names)} {what} ({', '.join(names[:_NAMES_SHOWN])}{', ...' if len(names) > _NAMES_SHOWN else ''})"
        for what, names in problems.items()
        if names
    ]
    if said:
        count = sum(map(len, problems.values()))
        raise MisfitError(f"{len(shapes)} tensors found, {len(wanted)} wanted: {'; '.join(said)}", count)


def check_image_size(image_size: int, patch_size: int) -> None:
    """Raises ValueError saying which sizes are allowed."""
    most = _LARGEST_GRID * patch_size
    if not 0 < image_size <= most:
        raise ValueError(f"image size {image_size} px; allowed: multiples of its patch, {patch_size} to {most} px")
    if image_size % patch_size:
        raise ValueError(f"its patches of {patch_size} px do not fill {image_size} px")


def _shape(weights: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = tuple(weights[name].shape)
    if len(shape) != dimensions or not all(shape):
        raise ValueError(f"{name} is {list(shape)}; wanted {dimensions} dimensions, none of them empty")
    return shape


def _heads(weights: Shapes, width: int, given: int | None, rotary: bool) -> int:
    normed = "blocks.0.attn.q_norm.weight"
    head_width = _shape(weights, normed, 1)[0] if normed in weights else _HEAD_WIDTH
    ruled = (_LARGE_ROTARY if rotary else _LARGE).get(width) if normed not in weights else None
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


def named(timm_name: str, image_size: int | None = None) -> Any:
    """A timm model by name, its weights random and without a classifier. Raises ValueError for a name timm lacks."""
    import timm

    if ":" in timm_name:  # hf-hub:..., local-dir:...: those would fetch or read a configuration from elsewhere
        raise ValueError(f"timm_name {shown(timm_name)!r}: a plain timm name is wanted, such as vit_small_patch16_224")
    if image_size is not None and not 0 < image_size <= 14 * _LARGEST_GRID:
        raise ValueError(f"image size {image_size} px; allowed: 1 to {14 * _LARGEST_GRID} px")
    size = {} if image_size is None else {"img_size": image_size}
    try:
        return timm.create_model(timm_name, pretrained=False, num_classes=0, **size)
    except RuntimeError:
        near = timm.list_models(f"*{timm_name.split('.')[0][:12]}*")[:4] or timm.list_models("vit_small*")[:4]
        raise ValueError(f"timm has no model {shown(timm_name)!r}; it has, for example: {', '.join(near)}") from None


def heads_and_width(timm_name: str) -> tuple[int, int] | None:
    """Heads and width of a vision transformer of timm's, None for any other name."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    from attndistill.models.weightless import weightless

    if not timm.is_model(timm_name):
        return None
    with weightless():  # its weights are not wanted
        model: Any = timm.create_model(timm_name, pretrained=False, num_classes=0)
    return (model.blocks[0].attn.num_heads, model.embed_dim) if isinstance(model, VisionTransformer) else None


def position_type(model: Any) -> str:
    """ "sincos", "learnable", "rotary" or "none": what a model's positions are."""
    from timm.layers import build_sincos2d_pos_embed
    from timm.models.vision_transformer import VisionTransformer
    from torch import allclose, cat

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

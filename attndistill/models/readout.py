"""Readout: the class token and its attention, computed for the class token alone.

Only the class token's query of the last block enters the method (paper sec. 3), so the last block runs for one query:
all keys and values, one row of attention, one row of MLP (`families.py`). Exact up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attndistill.core.features import Features
from attndistill.models.families import Family, check_readable, family_of

__all__ = ["check_readable", "read_features", "read_fields", "read_last_blocks"]

# B batch, T all tokens (class, registers, patches), A attended (class, patches), H heads


def read_features(
    vit: nn.Module,
    images: Float[Tensor, "B 3 S S"],
    *,
    patch_tokens: bool = False,
    layers: Sequence[int] | None = None,
    value_norms: bool = False,
) -> Features:
    """Run a backbone for its class token and the class token's attention.

    Args:
        vit: a backbone that `check_readable` accepts.
        images: normalised images.
        patch_tokens: also return the normed patch tokens, at the cost of a full last block.
        layers: also return the class token's attention in these blocks, counted from 0; negative ones from the end.
        value_norms: also return the last block's value norms.

    Returns:
        Features; attention is over (class token, patches). Register tokens are no patches: their share is taken out
        and the rest renormalised.

    Raises:
        ValueError: a layer the backbone does not have.
    """
    family, blocks, prefix = family_of(vit), list(vit.blocks), int(vit.num_prefix_tokens)  # type: ignore[arg-type]
    wanted = _counted(layers or (), len(blocks))
    captured: dict[int, Tensor] = {}
    tokens = family.embed(images)
    for number, block in enumerate(blocks[:-1]):
        if number in wanted:
            captured[number] = _over_class_and_patches(family.class_token(block, tokens)[1], prefix)
        tokens = family.run(block, tokens)
    cls_token, logits = family.class_token(blocks[-1], tokens)
    last = captured[len(blocks) - 1] = _over_class_and_patches(logits, prefix)
    norm = _final_norm(vit)
    return Features(
        norm(cls_token),
        last,
        norm(family.run(blocks[-1], tokens))[:, prefix:] if patch_tokens else None,
        tuple(captured[number] for number in wanted) if layers is not None else None,
        _value_norms(family, blocks[-1], tokens, prefix) if value_norms else None,
    )


def read_fields(vit: nn.Module, images: Float[Tensor, "B 3 S S"], fields: Sequence[str] = ()) -> Features:
    """`read_features` with these optional fields of `Features` filled in; "layer_attention" is every block's."""
    depth = len(vit.blocks)  # type: ignore[arg-type]
    return read_features(
        vit,
        images,
        patch_tokens="patch_tokens" in fields,
        layers=range(depth) if "layer_attention" in fields else None,
        value_norms="value_norms" in fields,
    )


def read_last_blocks(
    vit: nn.Module, images: Float[Tensor, "B 3 S S"], blocks: int, *, patch_mean: bool
) -> Float[Tensor, "B L D"]:
    """The class token after each of the last blocks, and the mean of the last one's patches, each after the norm.

    Args:
        vit: a backbone that `check_readable` accepts.
        images: normalised images.
        blocks: how many of the last blocks; the earliest comes first.
        patch_mean: whether the mean of the patches, register tokens left out, follows as one more row.

    Raises:
        ValueError: more blocks than there are.
    """
    family, every, prefix = family_of(vit), list(vit.blocks), int(vit.num_prefix_tokens)  # type: ignore[arg-type]
    if not 0 < blocks <= len(every):
        raise ValueError(f"the last {blocks} blocks are asked for; this backbone has {len(every)}")
    norm, tokens, found = _final_norm(vit), family.embed(images), []
    for number, block in enumerate(every[:-1], start=1):
        tokens = family.run(block, tokens)
        if number > len(every) - blocks:
            found.append(norm(tokens[:, 0]))
    if patch_mean:
        tokens = norm(family.run(every[-1], tokens))
        found += [tokens[:, 0], tokens[:, prefix:].mean(dim=1)]
    else:
        found.append(norm(family.class_token(every[-1], tokens)[0]))
    return torch.stack(found, dim=1)


def _final_norm(vit: Any) -> Any:
    """The norm after the last block; models made for average pooling keep it after the pool, as `fc_norm`."""
    return vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm


def _counted(layers: Sequence[int], depth: int) -> list[int]:
    for layer in layers:
        if not -depth <= layer < depth:
            raise ValueError(f"layer {layer}; this backbone has blocks 0 to {depth - 1} (or -{depth} to -1)")
    return [layer % depth for layer in layers]


def _value_norms(family: Family, block: Any, tokens: Tensor, prefix: int) -> Float[Tensor, "B H A"]:
    norms = family.values(block, tokens).norm(dim=-1)
    return _class_and_patches(norms.to(torch.promote_types(norms.dtype, torch.float32)), prefix)


def _over_class_and_patches(logits: Float[Tensor, "B H T"], prefix: int) -> Float[Tensor, "B H A"]:
    return _class_and_patches(logits, prefix).log_softmax(dim=-1)


def _class_and_patches(rows: Float[Tensor, "B H T"], prefix: int) -> Float[Tensor, "B H A"]:
    """Without registers."""
    return rows if prefix == 1 else torch.cat([rows[..., :1], rows[..., prefix:]], dim=-1)

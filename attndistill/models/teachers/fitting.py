"""From a state dict to a model that holds it: architecture, positions, and the one strict load.

What a reader would get wrong: nothing here is lenient. The published code loads two of its three formats with
strict=False, so that a wrong file silently gives a random teacher. And nothing is built before its tensors are there in
their shapes: what a file claims costs no memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from attndistill.core.words import shown
from attndistill.models.families import Backbone
from attndistill.models.readout import check_readable
from attndistill.models.released import (
    Architecture,
    MisfitError,
    architecture_of,
    check_image_size,
    check_shapes,
    expected_shapes,
    heads_and_width,
    named,
)
from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.formats import Found
from attndistill.models.teachers.reading import check_finite, check_tensors
from attndistill.models.vit import build_vit
from attndistill.models.weightless import weightless


@dataclass(frozen=True)
class Wanted:
    """What the user says of a checkpoint.

    Attributes:
        format: a registered format, or "auto".
        half: "teacher" or "student", of checkpoints that hold both.
        timm_name: the architecture, where the tensors do not tell it.
        num_heads: heads per block, where their width is not the rule's.
        sha256: of the file.
        image_size: side of the images it will see, pixels; None takes the one it was trained for.
        resize_positions: whether position embeddings may be resampled for that size.
        weights: "plain" or "ema", of files that hold averaged weights beside.
    """

    format: str = "auto"
    half: str = "teacher"
    timm_name: str | None = None
    num_heads: int | None = None
    sha256: str | None = None
    image_size: int | None = None
    resize_positions: bool = False
    weights: str = "plain"


@dataclass(frozen=True)
class Fitted:
    """A model with its weights, how to build it again, and what was decided for the user."""

    model: Backbone
    rebuild: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Weights that are a model's, name by name and shape by shape; nothing is built yet."""

    found: Found
    architecture: Architecture | None


def plan(found: Found, wanted: Wanted) -> Plan:
    """Tell the model these weights belong to and hold every name and shape against it.

    Raises:
        ValueError: no weights; an architecture that cannot be told or read; tensors that are missing, left over or of
            another shape.
    """
    check_tensors(found.weights)
    found = TEACHER_FORMATS[found.format]().settled(found) if found.format else found
    if wanted.timm_name is not None:
        with weightless():
            model = empty(wanted.timm_name)
        heads = model.blocks[0].attn.num_heads
        if wanted.num_heads not in (None, heads):
            raise ValueError(f"num_heads {wanted.num_heads}, but {wanted.timm_name} has {heads}; leave num_heads out")
        check_shapes(found.weights, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
        return Plan(found, None)
    architecture = architecture_of(
        found.weights,
        num_heads=_heads(found, wanted),
        final_norm=found.final_norm,
        norm_eps=found.norm_eps,
        rope_temperature=found.rope_temperature,
        image_size=wanted.image_size,
    )
    shapes = expected_shapes(lambda depth: replace(architecture, depth=depth).build(), architecture.depth)
    check_shapes(found.weights, shapes)
    if wanted.num_heads is None and not found.heads_follow_width:
        raise MisfitError(
            "students of one width have different numbers of heads (Table 7: ViT-T has 3 or 6) and the tensors do not "
            "tell which: give num_heads",
            0,
        )
    return Plan(found, architecture)


def fit(planned: Plan, wanted: Wanted) -> Fitted:
    """Build the model and load its weights strictly.

    Raises:
        ValueError: weights that are not finite; a model that cannot be read; positions for another image size.
    """
    found, architecture = planned.found, planned.architecture
    check_finite(found.weights)
    if architecture is None:
        model = empty(str(wanted.timm_name))
        rebuild = {"timm_name": wanted.timm_name, "image_size": model.patch_embed.img_size[0]}
    else:
        model, rebuild = architecture.build(), architecture.plain()
        check_readable(model)
    return _at_size(Fitted(model, rebuild, (*found.notes, *_notes(planned, wanted))), found.weights, wanted)


def refit(model: Backbone, rebuild: Mapping[str, Any], wanted: Wanted) -> Fitted:
    """A model that was stored with how to build it again: the readout's check, and its positions for another size.

    Raises:
        ValueError: a model that cannot be read, options that contradict it or say nothing of it, positions for another
            image size.
    """
    check_readable(model)
    _check_stored(model, rebuild, wanted)
    return _at_size(Fitted(model, dict(rebuild), ()), model.state_dict(), wanted)


def _check_stored(model: Any, rebuild: Mapping[str, Any], wanted: Wanted) -> None:
    """Nothing a user says of a stored model is passed over."""
    kept = {"format": "auto", "half": "teacher", "timm_name": rebuild.get("timm_name"), "weights": "plain"}
    wrong = [f"{name} {getattr(wanted, name)}" for name in kept if getattr(wanted, name) not in (None, kept[name])]
    heads = model.blocks[0].attn.num_heads
    if wanted.num_heads not in (None, heads):
        wrong.append(f"num_heads {wanted.num_heads} (it has {heads})")
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} cannot be had of a folder of this package: its model.json says what it is"
        )


def _at_size(fitted: Fitted, weights: Mapping[str, Tensor], wanted: Wanted) -> Fitted:
    """With its weights, and its positions for the images that were asked for."""
    model, rebuild, notes = fitted.model, fitted.rebuild, fitted.notes
    size: int = model.patch_embed.img_size[0]
    if wanted.image_size not in (None, size):
        check_image_size(int(wanted.image_size or 0), model.patch_embed.patch_size[0])
        if not wanted.resize_positions:
            raise ValueError(
                f"its positions are for {size} px and images of {wanted.image_size} px were asked for; "
                "set resize_positions to true to resample them"
            )
        model, rebuild, weights = _resized(model, rebuild, weights, int(wanted.image_size or 0))
        kind = "rotary positions computed" if model.pos_embed is None else "position embedding resampled"
        notes = (*notes, f"{kind} for {wanted.image_size} px in place of {size} px")
    model.load_state_dict(weights, strict=True)
    return Fitted(model, rebuild, notes)


def empty(timm_name: str, image_size: int | None = None) -> Any:
    """A timm model that the readout can read, its weights random.

    Raises:
        ValueError: a name timm lacks, or a model whose class token was not trained or cannot be read.
    """
    model: Any = named(timm_name, image_size)
    try:
        check_readable(model)
    except ValueError as error:
        raise ValueError(f"{timm_name}: {error}") from None
    if not isinstance(model.fc_norm, nn.Identity):
        raise ValueError(
            f"{timm_name}: its last norm follows the average over patches: its class token was never trained"
        )
    return model


def _heads(found: Found, wanted: Wanted) -> int | None:
    """By the file, else as given, else by the name the file gives itself; None leaves it to the rule."""
    if found.heads is not None:
        if wanted.num_heads not in (None, found.heads):
            raise ValueError(f"num_heads {wanted.num_heads}, but the file says {found.heads}; leave num_heads out")
        return found.heads
    return _heads_of(found) if wanted.num_heads is None else wanted.num_heads


def _heads_of(found: Found) -> int | None:
    """What a file of timm's training says by its `arch`, where timm knows that name as a model of this width."""
    width = found.weights.get("cls_token")
    named_so = heads_and_width(found.arch)
    return named_so[0] if named_so and width is not None and width.shape[-1] == named_so[1] else None


def _resized(
    model: Any, rebuild: Mapping[str, Any], weights: Mapping[str, Tensor], image_size: int
) -> tuple[Any, dict[str, Any], dict[str, Tensor]]:
    """The same model for images of another size, its position embedding (if any) resampled."""
    patch = model.patch_embed.patch_size[0]
    weights, changed = dict(weights), {**rebuild, "image_size": image_size}
    if model.pos_embed is not None:
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        grid = [image_size // patch] * 2
        weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], grid, num_prefix_tokens=prefix)
    if "timm_name" in rebuild:
        return empty(rebuild["timm_name"], image_size), changed, weights
    if "hidden" in rebuild:
        return Architecture(**changed).build(), changed, weights
    return build_vit(image_size, 0, **rebuild), dict(rebuild), weights  # of this package: its size stands elsewhere


def _notes(planned: Plan, wanted: Wanted) -> list[str]:
    found, architecture = planned.found, planned.architecture
    notes: list[str] = []
    if architecture is None:
        return notes
    heads, width = architecture.num_heads, architecture.embed_dim
    if found.rope_temperature is not None and wanted.image_size is None:
        notes.append(f"rotary positions, which fit any image size, are computed for {architecture.image_size} px")
    ruled = not architecture.qk_norm and found.heads is None
    if wanted.num_heads is None and _heads_of(found) is not None:
        notes.append(f"{heads} heads, as timm's {shown(found.arch)}, which the file calls itself")
    elif wanted.num_heads is None and ruled:
        notes.append(
            f"{heads} heads, the rule of released models of width {width}: the file does not say (num_heads overrides)"
        )
    elif wanted.num_heads is not None and ruled and found.heads_follow_width and width != 64 * heads:
        notes.append(f"{heads} heads of width {width // heads}, as given: the file cannot say whether that is so")
    if not found.final_norm:
        notes.append("no final norm: the one in the file has the width of its own teacher")
    return notes

"""Every layout a released teacher comes in: how it is told, what wraps it, and which names may be dropped.

Each format takes a file's contents and returns the backbone's state dict, or None when the contents are not laid out
that way. A name is dropped only because the format's own list says so; whatever else is left over fails the strict
load. Read from the public repositories; see docs/teachers.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.reading import Contents

_HEAD = {"head.": "the projection head"}
_CLASSIFIER = {"head.": "the classifier"}
_MASKED = {"masked_embed": "the embedding of masked patches"}
_MUGS = dict.fromkeys(
    ("relation_blocks.", "instance_head.", "local_group_head.", "group_head."), "a head of Mugs' training"
)
DROPPABLE = {
    "dino_full": _HEAD,
    "ibot_full": _HEAD | _MASKED,
    "mugs_full": _MUGS | _HEAD,
    "supervised": _CLASSIFIER,
    "attndistill_official": {"proj.": "P", "norm.": "P's last norm", "student_norm.": "a norm never trained"},
    "mae": dict.fromkeys(("decoder_", "mask_token"), "the masked autoencoder's decoder"),
    "mugs_backbone": _MUGS,
    "ibot": _HEAD | _MASKED,
    "dino_backbone": {},
    "timm": _CLASSIFIER | {"fc_norm.": "the norm of pooled patches"},
}
"""Format -> start of a name -> why such names are left out."""
_WRAPPERS = {
    **dict.fromkeys(("dino_full", "ibot_full", "mugs_full"), ("student", "teacher")),
    **dict.fromkeys(("attndistill_official", "mae"), ("model",)),
    **dict.fromkeys(("mugs_backbone", "ibot"), ("state_dict",)),
    "supervised": ("model", "state_dict"),
}


@dataclass(frozen=True)
class Found:
    """A backbone's weights as a format found them.

    Attributes:
        weights: timm's names -> tensors.
        dropped: name -> why it was left out.
        format: that format's name, "" for weights that came another way.
        half: which of two halves it is, "" where there is one.
        arch: what the file calls its architecture, "" where it says nothing; timm's name in a file of timm's training.
        final_norm: whether the backbone ends with a trained norm of its own.
        heads_follow_width: whether the rule of released models tells the number of heads in this format.
    """

    weights: dict[str, Tensor]
    dropped: dict[str, str]
    format: str = ""
    half: str = ""
    arch: str = ""
    final_norm: bool = True
    heads_follow_width: bool = True


@TEACHER_FORMATS.register("dino_full")
def dino_full(contents: Contents, *, half: Literal["teacher", "student"] = "teacher") -> Found | None:
    """DINO's full checkpoint: student, teacher, optimizer, dino_loss."""
    return _half(contents, half, {"dino_loss"}, "dino_full")


@TEACHER_FORMATS.register("ibot_full")
def ibot_full(contents: Contents, *, half: Literal["teacher", "student"] = "teacher") -> Found | None:
    """iBOT's full checkpoint: as DINO's, with ibot_loss."""
    return _half(contents, half, {"ibot_loss"}, "ibot_full")


@TEACHER_FORMATS.register("mugs_full")
def mugs_full(contents: Contents, *, half: Literal["teacher", "student"] = "teacher") -> Found | None:
    """Mugs' full checkpoint: student and teacher, each with a memory."""
    return _half(contents, half, {"student_mem", "teacher_mem"}, "mugs_full")


@TEACHER_FORMATS.register("supervised")
def supervised(contents: Contents) -> Found | None:
    """A classifier trained by DeiT's code (`model`) or timm's (`state_dict`, beside it `arch`): one linear head."""
    wrapped = next((state for name in _WRAPPERS["supervised"] if (state := _state(contents.tree.get(name)))), None)
    if wrapped is None or not _has_classifier(wrapped):
        return None
    _refuse_averaged(wrapped, contents)
    return replace(_without(wrapped, "supervised"), arch=str(contents.tree.get("arch") or ""))


@TEACHER_FORMATS.register("attndistill_official")
def attndistill_official(contents: Contents) -> Found | None:
    """A student of the paper's published code: its P and both norms are left out.

    The `norm` in it has the teacher's width and belongs after P; `student_norm` was never trained. So the backbone ends
    without a norm. Its heads must be given: ViT-T, 192 wide, has 3 in some rows of Table 7 and 6 in others.
    """
    wrapped = _state(contents.tree.get("model"))
    if wrapped is None or not any(name.startswith("proj.") for name in wrapped):
        return None
    return replace(_without(wrapped, "attndistill_official"), final_norm=False, heads_follow_width=False)


@TEACHER_FORMATS.register("mae")
def mae(contents: Contents) -> Found | None:
    """Masked autoencoders: `model`, with or without the decoder."""
    wrapped = _state(contents.tree.get("model"))
    if wrapped is None or _has_classifier(wrapped) or any(name.startswith("proj.") for name in wrapped):
        return None
    return _without(wrapped, "mae")


@TEACHER_FORMATS.register("mugs_backbone")
def mugs_backbone(contents: Contents) -> Found | None:
    """Mugs' backbone: `state_dict`, with names of Mugs' own heads or none."""
    wrapped = _state(contents.tree.get("state_dict"))
    if wrapped is None or _has(wrapped, "ibot"):  # a classifier's head is one of iBOT's names too
        return None
    return _without(wrapped, "mugs_backbone")


@TEACHER_FORMATS.register("ibot")
def ibot(contents: Contents) -> Found | None:
    """iBOT's checkpoint_teacher.pth: `state_dict` with head or masked_embed."""
    wrapped = _state(contents.tree.get("state_dict"))
    return None if wrapped is None or _has_classifier(wrapped) else _without(wrapped, "ibot")


@TEACHER_FORMATS.register("dino_backbone")
def dino_backbone(contents: Contents) -> Found | None:
    """DINO's backbone alone: a flat state dict in a torch file; nothing is dropped."""
    if contents.safetensors or not contents.is_flat or _has(contents.tree, "timm"):
        return None
    return _without(contents.tree, "dino_backbone")


@TEACHER_FORMATS.register("timm")
def timm(contents: Contents) -> Found | None:
    """timm's names, flat, with or without a classifier."""
    if not contents.is_flat:
        return None
    _refuse_averaged(contents.tree, contents)
    return _without(contents.tree, "timm")


def _half(contents: Contents, half: str, marks: set[str], name: str) -> Found | None:
    if not marks <= set(contents.tree) or not {"student", "teacher"} & set(contents.tree):
        return None
    wrapped = _state(contents.tree.get(half))
    if wrapped is None:
        there = [other for other in ("teacher", "student") if _state(contents.tree.get(other))]
        raise ValueError(f"{contents.path} has no {half} half; it has: {', '.join(there) or 'neither'}")
    return replace(_without(_unprefixed(wrapped, contents), name), half=half)


def _unprefixed(state: Mapping[str, Tensor], contents: Contents) -> dict[str, Tensor]:
    """Without the prefixes of data parallel training and of the multi-crop wrapper, which some old files lack."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = name.removeprefix("module.").removeprefix("backbone.")
        if plain in found:
            raise ValueError(f"{contents.path} has {plain} twice, with and without a prefix: which one is meant?")
        found[plain] = tensor
    return found


def _without(state: Mapping[str, Tensor], format_name: str) -> Found:
    droppable = DROPPABLE[format_name]
    dropped = {name: why for name in state for start, why in droppable.items() if name.startswith(start)}
    return Found({name: tensor for name, tensor in state.items() if name not in dropped}, dropped, format_name)


def _refuse_averaged(state: Mapping[str, Any], contents: Contents) -> None:
    if {"cls_token", "fc_norm.weight"} <= set(state) and "norm.weight" not in state:
        averaged = "its last norm follows the average over patches (fc_norm): its class token was never trained"
        raise ValueError(f"{contents.path}: {averaged}")


def _has_classifier(state: Mapping[str, Tensor]) -> bool:
    """One linear layer on the class token; the heads of self-supervised training have layers of their own names."""
    return "head.weight" in state and state["head.weight"].ndim == 2


def _has(state: Mapping[str, Any], format_name: str) -> bool:
    """Whether some of the names are ones that this format drops."""
    return any(name.startswith(tuple(DROPPABLE[format_name])) for name in state)


def explaining(names: list[str], format_name: str) -> str | None:
    """The format whose own list explains most of these names, if any explains one; of equals, one wrapped alike."""
    counts = {
        known: sum(name.startswith(tuple(starts)) for name in names) for known, starts in DROPPABLE.items() if starts
    }
    mine = set(_WRAPPERS.get(format_name, ()))
    best = max(counts, key=lambda known: (counts[known], bool(mine & set(_WRAPPERS.get(known, ())))))
    return best if counts[best] else None


def _state(value: Any) -> dict[str, Tensor] | None:
    """The value if it is a state dict: names and tensors, at least one."""
    if not isinstance(value, dict) or not value:
        return None
    return value if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()) else None

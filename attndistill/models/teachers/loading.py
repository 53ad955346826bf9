"""From a file to a frozen teacher: recognise, drop by name, load strictly, account for it.

What a reader would get wrong: nothing here is lenient. The published code loads two of its three formats with
strict=False, so that a wrong file silently gives a random teacher.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attndistill.core.artifacts import file_digest, read_json
from attndistill.models.families import Backbone
from attndistill.models.readout import check_readable
from attndistill.models.released import Architecture, architecture_of, named, position_type
from attndistill.models.storage import load_model
from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.formats import Found, explaining
from attndistill.models.teachers.reading import Contents, read_checkpoint
from attndistill.models.teachers.report import LoadReport
from attndistill.models.vit import count_parameters

_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Wanted:
    """What the user says of a checkpoint.

    Attributes:
        format: a registered format, or "auto".
        half: "teacher" or "student", of checkpoints that hold both.
        timm_name: the architecture, where the tensors do not tell it.
        num_heads: heads per block, where they are not of width 64.
        sha256: of the file.
        image_size: side of the images it will see, pixels; None takes the one it was trained for.
        resize_positions: whether position embeddings may be resampled for that size.
    """

    format: str = "auto"
    half: str = "teacher"
    timm_name: str | None = None
    num_heads: int | None = None
    sha256: str | None = None
    image_size: int | None = None
    resize_positions: bool = False


@dataclass(frozen=True)
class Loaded:
    """A teacher in evaluation mode, how to build it again, and the account of its loading."""

    model: Backbone
    rebuild: dict[str, Any]
    report: LoadReport


def load_teacher(path: Path, wanted: Wanted) -> Loaded:
    """Load a released checkpoint, or a model stored by this package.

    Args:
        path: a safetensors or torch file, or a folder with model.json.
        wanted: what the user says of it.

    Raises:
        ValueError: one line: a broken, hostile or unknown file, tensors missing or left over, an architecture that
            cannot be read, or positions for another image size.
    """
    if path.is_dir():
        return _load_stored(path, wanted)
    contents = read_checkpoint(path, wanted.sha256)
    name, found = _recognise(contents, wanted)
    try:
        if wanted.timm_name is not None:
            model, rebuild, weights = _by_name(wanted, found)
        else:
            model, rebuild, weights = _by_shape(wanted, found)
        notes = _notes(wanted, found, model, rebuild)
        _load_strictly(model, weights)
        _check_size(model, wanted)
        check_readable(model)
    except ValueError as error:
        raise ValueError(f"{path} (read as {name}): {error}") from None
    report = _report(model, path.name, name, found, contents.sha256, notes)
    return Loaded(model.eval().requires_grad_(False), rebuild, report)


def load_from_hub(timm_name: str, wanted: Wanted) -> Loaded:
    """A timm model with its published weights, fetched (or taken from timm's cache) by timm.

    Raises:
        ValueError: an unknown name, or a hub that cannot be reached.
    """
    import timm

    named(timm_name)
    size = {} if wanted.image_size is None or not wanted.resize_positions else {"img_size": wanted.image_size}
    try:
        model = timm.create_model(timm_name, pretrained=True, num_classes=0, **size)
    except Exception as error:  # the hub's client raises many kinds
        problem = " ".join(str(error).split())[:160] or type(error).__name__
        advice = "fetch its file where the network allows and give its path"
        raise ValueError(f"{timm_name}: timm could not fetch its weights ({problem}); {advice}") from None
    _check_size(model, wanted)
    check_readable(model)
    rebuild = {"timm_name": timm_name, "image_size": model.patch_embed.img_size[0]}
    found = Found(dict(model.state_dict()), {})
    return Loaded(model.eval().requires_grad_(False), rebuild, _report(model, timm_name, "timm hub", found, "", ()))


def _recognise(contents: Contents, wanted: Wanted) -> tuple[str, Found]:
    names = TEACHER_FORMATS.names() if wanted.format == "auto" else (wanted.format,)
    for name in names:
        found = _read_as(name, contents, wanted)
        if found is not None:
            return name, found
    keys = ", ".join(list(contents.tree)[:6])
    if wanted.format != "auto":
        other = next((name for name in TEACHER_FORMATS.names() if _read_as(name, contents, wanted)), None)
        advice = f"; it looks like {other}" if other else ""
        raise ValueError(f"{contents.path} is not laid out as {wanted.format} (it holds: {keys}){advice}")
    known = ", ".join(TEACHER_FORMATS.names())
    raise ValueError(
        f"{contents.path} is of no known format (it holds: {keys}); known: {known}, and a folder of this package"
    )


def _read_as(name: str, contents: Contents, wanted: Wanted) -> Found | None:
    declared = {option.name for option in TEACHER_FORMATS.declared().get(name, ())}
    options = {"half": wanted.half} if "half" in declared else {}
    found: Found | None = TEACHER_FORMATS.bind(name, options)(contents)
    return found


def _by_shape(wanted: Wanted, found: Found) -> tuple[VisionTransformer, dict[str, Any], dict[str, Tensor]]:
    architecture = architecture_of(found.weights, num_heads=wanted.num_heads, final_norm=found.final_norm)
    weights = found.weights
    if wanted.resize_positions and wanted.image_size not in (None, architecture.image_size):
        architecture, weights = _resized(architecture, weights, int(wanted.image_size or 0))
    return architecture.build(), architecture.plain(), weights


def _resized(
    architecture: Architecture, weights: Mapping[str, Tensor], image_size: int
) -> tuple[Architecture, dict[str, Tensor]]:
    side, patch = image_size // architecture.patch_size, architecture.patch_size
    if image_size % patch:
        raise ValueError(f"its patches of {patch} px do not fill {image_size} px")
    prefix = 1 + architecture.registers if architecture.cls_position else 0
    positions = resample_abs_pos_embed(weights["pos_embed"], [side, side], num_prefix_tokens=prefix)
    return replace(architecture, image_size=image_size), {**weights, "pos_embed": positions}


def _by_name(wanted: Wanted, found: Found) -> tuple[Any, dict[str, Any], dict[str, Tensor]]:
    model: Any = named(str(wanted.timm_name))
    weights, size = found.weights, model.patch_embed.img_size[0]
    if wanted.resize_positions and wanted.image_size not in (None, size):
        model = named(str(wanted.timm_name), wanted.image_size)
        size = wanted.image_size
        if isinstance(model, VisionTransformer) and "pos_embed" in weights:
            prefix = 0 if model.no_embed_class else model.num_prefix_tokens
            grid = list(model.patch_embed.grid_size)
            positions = resample_abs_pos_embed(weights["pos_embed"], grid, num_prefix_tokens=prefix)
            weights = {**weights, "pos_embed": positions}
    return model, {"timm_name": wanted.timm_name, "image_size": size}, weights


def _load_strictly(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights]
    left_over = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} is {list(weights[name].shape)}, wanted {list(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:_NAMES_SHOWN])}{', ...' if len(names) > _NAMES_SHOWN else ''})"
        for what, names in (("missing", missing), ("left over", left_over), ("of another shape", shapes))
        if names
    ]
    if problems:
        nearest = explaining(left_over)
        advice = f"; nearest known format: {nearest}" if nearest else ""
        raise ValueError(f"{len(weights)} tensors found, {len(wanted)} wanted: {'; '.join(problems)}{advice}")
    model.load_state_dict(dict(weights), strict=True)


def _check_size(model: Any, wanted: Wanted) -> None:
    size = model.patch_embed.img_size[0]
    if wanted.image_size is not None and wanted.image_size != size:
        raise ValueError(
            f"its positions are for {size} px and images of {wanted.image_size} px were asked for; "
            "set resize_positions to true to resample them"
        )


def _notes(wanted: Wanted, found: Found, model: Any, rebuild: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    size, entries = model.patch_embed.img_size[0], found.weights.get("pos_embed")
    if entries is not None and entries.shape != model.pos_embed.shape:
        notes.append(
            f"position embedding resampled from {entries.shape[1]} to {model.pos_embed.shape[1]} for {size} px"
        )
    if wanted.num_heads is None and "timm_name" not in rebuild:
        notes.append("heads of width 64, the rule of released models: the file does not say (num_heads overrides)")
    if not found.final_norm:
        notes.append("no final norm: the one in the file has the width of its own teacher")
    if model.num_prefix_tokens > 1:
        notes.append("registers are no patches: their share of attention is taken out and the rest renormalised")
    return tuple(notes)


def _report(model: Any, file: str, name: str, found: Found, sha256: str, notes: tuple[str, ...]) -> LoadReport:
    attention = model.blocks[0].attn
    grid = model.patch_embed.grid_size
    return LoadReport(
        file=file,
        format=name,
        half=found.half,
        sha256=sha256,
        tensors=len(found.weights),
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=attention.num_heads,
        patch_size=model.patch_embed.patch_size[0],
        image_size=model.patch_embed.img_size[0],
        tokens=model.num_prefix_tokens + grid[0] * grid[1],
        registers=model.num_prefix_tokens - 1,
        position=position_type(model),
        parameters=count_parameters(model),
        dropped=found.dropped,
        notes=notes,
    )


def _load_stored(path: Path, wanted: Wanted) -> Loaded:
    """A model of this package: a student, or a teacher pre-trained here."""
    model, projector = load_model(path)
    digest = file_digest(path / "model.safetensors")
    if wanted.sha256 is not None and digest != wanted.sha256.lower():
        raise ValueError(f"{path}: its SHA-256 is {digest}, {wanted.sha256.lower()} was wanted")
    _check_size(model, wanted)
    check_readable(model)
    dropped = {f"projector.{name}": "P" for name in projector.state_dict()} if projector is not None else {}
    found = Found(dict(model.state_dict()), dropped)
    report = _report(model, path.name, "attndistill", found, digest, ())
    return Loaded(model.requires_grad_(False), read_json(path / "model.json")["vit"], report)

"""From a file to a frozen teacher: recognise, drop by name, load strictly, account for it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attndistill.core.artifacts import file_digest, read_json
from attndistill.core.words import shown
from attndistill.models.families import Backbone
from attndistill.models.released import NoVitError, position_type
from attndistill.models.storage import load_model
from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.fitting import Fitted, Plan, Wanted, empty, fit, plan, refit
from attndistill.models.teachers.formats import Found, known_kind, where_it_lies, with_weights
from attndistill.models.teachers.reading import Contents, read_checkpoint
from attndistill.models.teachers.report import LoadReport
from attndistill.models.vit import count_parameters
from attndistill.models.weightless import weightless

__all__ = ["Loaded", "Wanted", "load_from_hub", "load_teacher"]

_KEYS_SHOWN = 6
_LONGEST = 1500  # characters of a refusal


@dataclass(frozen=True)
class Loaded:
    """A teacher in evaluation mode, how to build it again, and the account of its loading."""

    model: Backbone
    rebuild: dict[str, Any]
    report: LoadReport


def load_teacher(path: Path, wanted: Wanted) -> Loaded:
    """Load a released checkpoint, or a model stored by this package.

    Args:
        path: a safetensors or torch file, a folder with model.json, or a folder or index as transformers saves them.
        wanted: what the user says of it.

    Raises:
        ValueError: one line: a broken, hostile or unknown file, tensors missing or left over, an architecture that
            cannot be read, or positions for another image size.
    """
    try:
        return _load(path, wanted)
    except ValueError as error:
        raise ValueError(shown(error, _LONGEST)) from None


def _load(path: Path, wanted: Wanted) -> Loaded:
    if (path / "model.json").exists():
        return _load_stored(path, wanted)
    if path.name == "model.safetensors" and (path.parent / "model.json").exists():
        raise ValueError(f"{path} is a part of a folder stored by this package: give the folder, {path.parent}")
    contents, notes = with_weights(read_checkpoint(path, wanted.sha256), wanted.weights)
    planned = _recognise(contents, wanted)
    try:
        fitted = fit(planned, wanted)
    except ValueError as error:
        raise ValueError(f"{path} (read as {planned.found.format}): {error}") from None
    fitted = replace(fitted, notes=(*notes, *fitted.notes))
    return _loaded(path.name, planned.found, fitted, contents.sha256)


def load_from_hub(timm_name: str, wanted: Wanted) -> Loaded:
    """A timm model with its published weights, fetched (or taken from timm's cache) by timm.

    Raises:
        ValueError: an unknown name, a model that cannot be read, a hub that cannot be reached, positions for another
            image size.
    """
    import timm

    with weightless():
        empty(timm_name)  # refused before anything is fetched
    try:
        model = timm.create_model(timm_name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises many kinds
        problem = shown(" ".join(str(error).split()), 160) or type(error).__name__
        advice = "fetch its file where the network allows and give its path"
        raise ValueError(f"{timm_name}: timm could not fetch its weights ({problem}); {advice}") from None
    found, wanted = Found(dict(model.state_dict()), {}), replace(wanted, timm_name=timm_name)
    try:
        return _loaded(timm_name, found, fit(plan(found, wanted), wanted), _tensors_digest(found.weights), "timm hub")
    except ValueError as error:
        raise ValueError(f"{timm_name} (from timm's hub): {error}") from None


def _recognise(contents: Contents, wanted: Wanted) -> Plan:
    """The first format in which every tensor fits; where none does, the account of the one that comes nearest.

    Raises:
        ValueError: no format fits; another than the given one is named only where it does.
    """
    if wanted.format != "auto":
        TEACHER_FORMATS[wanted.format]  # refused where there is none of that name
    names = TEACHER_FORMATS.names() if wanted.format == "auto" else (wanted.format,)
    problems: dict[str, ValueError] = {}
    for name in names:
        result = _tried(name, contents, wanted)
        if isinstance(result, Plan):
            return result
        if result is not None:
            problems[name] = result
    others = [name for name in TEACHER_FORMATS.names() if name not in names]
    fitting = next((name for name in others if isinstance(_tried(name, contents, wanted), Plan)), None)
    advice = f"; it fits {fitting}" if fitting else ""
    if not problems:
        keys = ", ".join(map(shown, list(contents.tree)[:_KEYS_SHOWN]))
        known = "of no known format" if wanted.format == "auto" else f"not laid out as {wanted.format}"
        what = known_kind(contents) or where_it_lies(contents)
        more = f"; known: {', '.join(names)}, and a folder of this package" if wanted.format == "auto" else ""
        more = f": {what}" if what and not advice else more
        raise ValueError(f"{contents.path} is {known} (it holds: {keys}){more}{advice}")
    nearest = min(problems, key=lambda name: getattr(problems[name], "count", float("inf")))
    problem = problems[nearest]
    what = known_kind(contents) or (where_it_lies(contents) if isinstance(problem, NoVitError) else None)
    said = f": {what}" if what else f" (read as {nearest}): {problem}"
    raise ValueError(f"{contents.path}{said}{advice}")


def _tried(name: str, contents: Contents, wanted: Wanted) -> Plan | ValueError | None:
    """A plan, why there is none, or None where the layout is another."""
    found: Found | None = TEACHER_FORMATS[name]().read(contents, name, wanted.half)
    if found is None:
        return None
    try:
        planned = plan(found, wanted)
    except ValueError as error:
        return error
    if wanted.half != "teacher" and found.half != wanted.half:
        raise ValueError(f"{contents.path} (read as {name}) holds one model: there is no {wanted.half} half of it")
    return planned


def _loaded(file: str, found: Found, fitted: Fitted, sha256: str, name: str = "") -> Loaded:
    report = _report(fitted.model, file, name or found.format, found, sha256, fitted.notes)
    return Loaded(fitted.model.eval().requires_grad_(False), fitted.rebuild, report)


def _report(model: Any, file: str, name: str, found: Found, sha256: str, notes: tuple[str, ...]) -> LoadReport:
    grid = model.patch_embed.grid_size
    if model.num_prefix_tokens > 1:
        notes += ("registers are no patches: their share of attention is taken out and the rest renormalised",)
    return LoadReport(
        file=shown(file),
        format=name,
        half=found.half,
        sha256=sha256,
        tensors=len(found.weights),
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=model.blocks[0].attn.num_heads,
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
    dropped = {f"projector.{name}": "P" for name in projector.state_dict()} if projector is not None else {}
    found = Found(dict(model.state_dict()), dropped)
    try:
        fitted = refit(model, read_json(path / "model.json")["vit"], wanted)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return _loaded(path.name, found, fitted, digest, "attndistill")


def _tensors_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, kinds, shapes and bytes, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""From a file to a frozen teacher: recognise, drop by name, load strictly, account for it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attndistill.core.artifacts import file_digest, read_json
from attndistill.models.families import Backbone
from attndistill.models.released import position_type
from attndistill.models.storage import load_model
from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.fitting import Fitted, Wanted, empty, fit, refit
from attndistill.models.teachers.formats import Found
from attndistill.models.teachers.reading import Contents, read_checkpoint
from attndistill.models.teachers.report import LoadReport
from attndistill.models.vit import count_parameters

__all__ = ["Loaded", "Wanted", "load_from_hub", "load_teacher"]

_KEYS_SHOWN = 6


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
    if path.name == "model.safetensors" and (path.parent / "model.json").exists():
        raise ValueError(f"{path} is a part of a folder stored by this package: give the folder, {path.parent}")
    contents = read_checkpoint(path, wanted.sha256)
    name, found = _recognise(contents, wanted)
    try:
        return _loaded(path.name, name, found, fit(found, wanted), contents.sha256)
    except ValueError as error:
        raise ValueError(f"{path} (read as {name}): {error}") from None


def load_from_hub(timm_name: str, wanted: Wanted) -> Loaded:
    """A timm model with its published weights, fetched (or taken from timm's cache) by timm.

    Raises:
        ValueError: an unknown name, a model that cannot be read, a hub that cannot be reached, positions for another
            image size.
    """
    import timm

    empty(timm_name)  # refused before anything is fetched
    try:
        model = timm.create_model(timm_name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises many kinds
        problem = " ".join(str(error).split())[:160] or type(error).__name__
        advice = "fetch its file where the network allows and give its path"
        raise ValueError(f"{timm_name}: timm could not fetch its weights ({problem}); {advice}") from None
    found = Found(dict(model.state_dict()), {})
    try:
        fitted = fit(found, replace(wanted, timm_name=timm_name))
        return _loaded(timm_name, "timm hub", found, fitted, _tensors_digest(found.weights))
    except ValueError as error:
        raise ValueError(f"{timm_name} (from timm's hub): {error}") from None


def _recognise(contents: Contents, wanted: Wanted) -> tuple[str, Found]:
    names = TEACHER_FORMATS.names() if wanted.format == "auto" else (wanted.format,)
    for name in names:
        found = _read_as(name, contents, wanted)
        if found is None:
            continue
        if wanted.half != "teacher" and not _has_halves(name):
            raise ValueError(f"{contents.path} (read as {name}) holds one model: there is no {wanted.half} half of it")
        return name, found
    keys = ", ".join(list(contents.tree)[:_KEYS_SHOWN])
    if wanted.format != "auto":
        other = next((name for name in TEACHER_FORMATS.names() if _read_as(name, contents, wanted)), None)
        advice = f"; it looks like {other}" if other else ""
        raise ValueError(f"{contents.path} is not laid out as {wanted.format} (it holds: {keys}){advice}")
    known = ", ".join(TEACHER_FORMATS.names())
    raise ValueError(
        f"{contents.path} is of no known format (it holds: {keys}); known: {known}, and a folder of this package"
    )


def _read_as(name: str, contents: Contents, wanted: Wanted) -> Found | None:
    options = {"half": wanted.half} if _has_halves(name) else {}
    found: Found | None = TEACHER_FORMATS.bind(name, options)(contents)
    return found


def _has_halves(name: str) -> bool:
    return any(option.name == "half" for option in TEACHER_FORMATS.declared().get(name, ()))


def _loaded(file: str, name: str, found: Found, fitted: Fitted, sha256: str) -> Loaded:
    report = _report(fitted.model, file, name, found, sha256, fitted.notes)
    return Loaded(fitted.model.eval().requires_grad_(False), fitted.rebuild, report)


def _report(model: Any, file: str, name: str, found: Found, sha256: str, notes: tuple[str, ...]) -> LoadReport:
    grid = model.patch_embed.grid_size
    if model.num_prefix_tokens > 1:
        notes += ("registers are no patches: their share of attention is taken out and the rest renormalised",)
    return LoadReport(
        file=file,
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
    return _loaded(path.name, "attndistill", found, fitted, digest)


def _tensors_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, kinds, shapes and bytes, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""Models on disk: safetensors (no code can hide in them) and a JSON that says how to build the model again.

Backbone weights carry timm's names, so `timm.models.VisionTransformer.load_state_dict` takes them; a student's
projector lies beside them under `projector.`.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from attndistill.core.artifacts import file_digest, read_json, replacing, write_json
from attndistill.models.families import Backbone
from attndistill.models.projector import Projector, Student, state_of
from attndistill.models.released import Architecture, named
from attndistill.models.vit import build_vit

FORMAT = "attndistill-model/1"
_PROJECTOR = "projector."


def save_model(directory: Path, model: Backbone | Student, *, image_size: int, vit: dict[str, Any]) -> None:
    """Write model.safetensors, then model.json with its digest.

    Args:
        directory: made when needed.
        model: a backbone, or a student with its projector.
        image_size: side of the input, pixels.
        vit: how to build it again: keyword arguments of `build_vit`, of `released.Architecture` or of `released.named`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    backbone = model.backbone if isinstance(model, Student) else model
    weights = state_of(backbone)
    projector = None
    if isinstance(model, Student):
        projector = {"teacher_dim": model.projector.norm.weight.numel(), "depth": model.projector.depth}
        weights |= {f"{_PROJECTOR}{name}": tensor for name, tensor in state_of(model.projector).items()}
    path = directory / "model.safetensors"
    with replacing(path) as beside:
        save_file(weights, beside)
    description = {
        "format": FORMAT,
        "image_size": image_size,
        "vit": vit,
        "projector": projector,
        "weights_sha256": file_digest(path),
    }
    write_json(directory / "model.json", description)


def load_model(directory: Path) -> tuple[Backbone, Projector | None]:
    """The backbone and, for a student, its projector; in evaluation mode, strictly loaded.

    Raises:
        ValueError: missing or broken files, another format, weights that are not the described ones.
    """
    description, path = _description(directory), directory / "model.safetensors"
    if not path.exists() or file_digest(path) != description.get("weights_sha256"):
        raise ValueError(f"{path} is missing or is not the file that model.json describes: run its stage again")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    backbone, projector = _build(description, directory)
    if projector is not None:
        _load(projector, {k.removeprefix(_PROJECTOR): v for k, v in weights.items() if k.startswith(_PROJECTOR)}, path)
        weights = {k: v for k, v in weights.items() if not k.startswith(_PROJECTOR)}
    _load(backbone, weights, path)
    return backbone.eval(), projector and projector.eval()


def fit_image_size(backbone: Backbone, image_size: int) -> None:
    """Let a model see images of another size, its positions resampled for their grid.

    Raises:
        ValueError: the model's patches do not divide them.
    """
    patch = int(backbone.patch_embed.patch_size[0])
    if image_size % patch:
        raise ValueError(f"views.image_size {image_size} is no multiple of the model's patches of {patch} pixels")
    if image_size != backbone.patch_embed.img_size[0]:
        backbone.set_input_size(img_size=(image_size, image_size))


def weights_digest(directory: Path) -> str:
    """SHA-256 of a stored model's weights, as its description names it."""
    return str(_description(directory).get("weights_sha256"))


def _description(directory: Path) -> dict[str, Any]:
    description = read_json(directory / "model.json")
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ValueError(f"{directory}: model format {found!r}; this version reads {FORMAT!r}")
    return dict(description)


def _build(description: dict[str, Any], directory: Path) -> tuple[Backbone, Projector | None]:
    """Models of the described sizes, their weights still to be loaded."""
    try:
        backbone = _backbone(description["image_size"], description["vit"])
        options = description["projector"]
        return backbone, Projector(backbone.embed_dim, seed=0, **options) if options else None
    except (AssertionError, ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # whatever timm and torch raise for sizes that make no model
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{directory / 'model.json'} describes no model that can be built ({problem})") from None


def _backbone(image_size: int, vit: dict[str, Any]) -> Any:
    """A ViT of this package's sizes, of a released model's architecture, or by its timm name."""
    if "timm_name" in vit:
        return named(**vit)
    return Architecture(**vit).build() if "hidden" in vit else build_vit(image_size, 0, **vit)


def _load(module: nn.Module, weights: dict[str, Any], path: Path) -> None:
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its model.json: {' '.join(str(error).split())}") from None

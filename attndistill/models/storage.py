"""Models on disk: safetensors (no code can hide in them) and a JSON that says how to build the model again.

Backbone weights carry timm's names, so `timm.models.VisionTransformer.load_state_dict` takes them; a student's
projector lies beside them under `projector.`.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from attndistill.core.artifacts import file_digest, read_json, replacing, write_json
from attndistill.models.projector import Projector, Student, state_of
from attndistill.models.vit import build_vit

FORMAT = "attndistill-model/1"
_PROJECTOR = "projector."


def save_model(directory: Path, model: VisionTransformer | Student, *, image_size: int, vit: dict[str, Any]) -> None:
    """Write model.safetensors, then model.json with its digest.

    Args:
        directory: made when needed.
        model: a backbone, or a student with its projector.
        image_size: side of the input, pixels.
        vit: keyword arguments of `build_vit`.
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


def load_model(directory: Path) -> tuple[VisionTransformer, Projector | None]:
    """The backbone and, for a student, its projector; in evaluation mode, strictly loaded.

    Raises:
        ValueError: missing or broken files, another format, weights that are not the described ones.
    """
    description = read_json(directory / "model.json")
    path = directory / "model.safetensors"
    if description.get("format") != FORMAT:
        raise ValueError(f"{directory}: model format {description.get('format')!r}; this version reads {FORMAT!r}")
    if not path.exists() or file_digest(path) != description["weights_sha256"]:
        raise ValueError(f"{path} is missing or is not the file that model.json describes: run its stage again")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    backbone = build_vit(description["image_size"], 0, **description["vit"])
    projector = None
    if description["projector"]:
        projector = Projector(backbone.embed_dim, seed=0, **description["projector"])
        _load(projector, {k.removeprefix(_PROJECTOR): v for k, v in weights.items() if k.startswith(_PROJECTOR)}, path)
    _load(backbone, {k: v for k, v in weights.items() if not k.startswith(_PROJECTOR)}, path)
    return backbone.eval(), projector and projector.eval()


def weights_digest(directory: Path) -> str:
    """SHA-256 of a stored model's weights."""
    digest: str = read_json(directory / "model.json")["weights_sha256"]
    return digest


def _load(module: nn.Module, weights: dict[str, Any], path: Path) -> None:
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its model.json: {' '.join(str(error).split())}") from None

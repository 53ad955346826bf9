"""Models on disk: safetensors (no code can hide in them) and a JSON that says how to build the model again.

Backbone weights carry timm's names, so `timm.models.VisionTransformer.load_state_dict` takes them; a student's
projector lies beside them under `projector.`. `Description` is the JSON, for the writer and for the reader; nothing is
built before its tensors are known to be there in their shapes.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import save_file

from attndistill.core.artifacts import file_digest, replacing, write_json
from attndistill.models.description import FORMAT, PROJECTOR, Description, first_fault, read_description
from attndistill.models.families import Backbone
from attndistill.models.projector import Projector, Student, state_of
from attndistill.models.released import MisfitError
from attndistill.models.teachers.reading import check_finite, check_regular, read_safetensors


def save_model(directory: Path, model: Backbone | Student, *, image_size: int, vit: dict[str, Any]) -> None:
    """Write model.safetensors, then model.json with its digest.

    Args:
        directory: made when needed.
        model: a backbone, or a student with its projector.
        image_size: side of the input, pixels.
        vit: how to build it again: keyword arguments of `build_vit`, of `released.Architecture` or of `released.named`.

    Raises:
        ValueError: weights that are not finite, or not those of such a model; nothing is written.
    """
    backbone = model.backbone if isinstance(model, Student) else model
    weights = state_of(backbone)
    projector = None
    if isinstance(model, Student):
        projector = {"teacher_dim": model.projector.norm.weight.numel(), "depth": model.projector.depth}
        weights |= {f"{PROJECTOR}{name}": tensor for name, tensor in state_of(model.projector).items()}
    description = {
        "format": FORMAT,
        "image_size": image_size,
        "vit": vit,
        "projector": projector,
        "weights_sha256": "0" * 64,
    }
    try:
        check_finite(weights)
        Description.model_validate_json(json.dumps(description)).check(weights)  # as it will be read
    except ValueError as error:
        problem = first_fault(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"{directory}: this model is not stored: {problem}") from None
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.safetensors"
    with replacing(path) as beside:
        save_file(weights, beside)
    write_json(directory / "model.json", description | {"weights_sha256": file_digest(path)})


def load_model(directory: Path) -> tuple[Backbone, Projector | None]:
    """The backbone and, for a student, its projector; in evaluation mode, strictly loaded.

    Raises:
        ValueError: missing or broken files, another format, weights that are not the described ones or not finite.
    """
    description, path = read_description(directory), directory / "model.safetensors"
    if path.exists():
        check_regular(path)
    if not path.exists() or file_digest(path) != description.weights_sha256:
        raise ValueError(f"{path} is missing or is not the file that model.json describes: run its stage again")
    weights = read_safetensors(path)
    try:
        description.check(weights)
        check_finite(weights)
    except MisfitError as error:
        raise ValueError(f"{path} does not fit its model.json: {error}") from None
    except ValueError as error:
        raise ValueError(f"{directory / 'model.json'} and the tensors beside it: {error}") from None
    backbone, projector = description.backbone(), None
    if description.projector is not None:
        projector = Projector(backbone.embed_dim, seed=0, **asdict(description.projector))
        projector.load_state_dict(
            {name.removeprefix(PROJECTOR): weights.pop(name) for name in list(weights) if name.startswith(PROJECTOR)}
        )
    backbone.load_state_dict(weights, strict=True)
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

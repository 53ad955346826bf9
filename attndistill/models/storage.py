"""Models on disk: safetensors (no code can hide in them) and a JSON that says how to build the model again.

Backbone weights carry timm's names, so `timm.models.VisionTransformer.load_state_dict` takes them; a student's
projector lies beside them under `projector.`. `Description` is the JSON, for the writer and for the reader; nothing is
built before its tensors are known to be there in their shapes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file

from attndistill.core.artifacts import file_digest, replacing, write_json
from attndistill.core.words import shown
from attndistill.models.families import Backbone
from attndistill.models.projector import Projector, Student, state_of
from attndistill.models.released import (
    STRICT,
    Architecture,
    MisfitError,
    Positive,
    block_numbers,
    check_image_size,
    check_shapes,
    expected_shapes,
    named,
)
from attndistill.models.teachers.reading import check_finite, check_regular, read_safetensors
from attndistill.models.vit import build_vit

FORMAT = "attndistill-model/1"
_PROJECTOR = "projector."
_LARGEST = 2**20  # bytes of a model.json: a thousand times what one has


@dataclass(frozen=True, config=STRICT)
class Sizes:
    """A ViT of this package: keyword arguments of `build_vit`."""

    embed_dim: Positive
    depth: Positive
    num_heads: Positive
    patch_size: Positive
    mlp_ratio: Annotated[float, Field(gt=0)]
    position: Literal["learnable", "sincos"]


@dataclass(frozen=True, config=STRICT)
class Named:
    """A released model by its timm name."""

    timm_name: str
    image_size: Positive


@dataclass(frozen=True, config=STRICT)
class ProjectorSizes:
    """A projector beside its backbone's width."""

    teacher_dim: Positive
    depth: Positive


def _kind(vit: Any) -> str:
    names = vit if isinstance(vit, dict) else ()
    return "named" if "timm_name" in names else "released" if "hidden" in names else "own"


class Description(BaseModel):
    """model.json."""

    model_config = ConfigDict(**STRICT, frozen=True)
    format: Literal["attndistill-model/1"]
    image_size: Positive
    vit: Annotated[
        Annotated[Sizes, Tag("own")] | Annotated[Architecture, Tag("released")] | Annotated[Named, Tag("named")],
        Discriminator(_kind),
    ]
    projector: ProjectorSizes | None
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    def backbone(self, depth: int | None = None) -> Any:
        """The backbone it describes, of so many blocks where `depth` says so, weights random."""
        vit = self.vit
        if isinstance(vit, Named):
            return named(vit.timm_name, vit.image_size)
        sizes = asdict(vit) | ({} if depth is None else {"depth": depth})
        return (
            Architecture(**sizes).build() if isinstance(vit, Architecture) else build_vit(self.image_size, 0, **sizes)
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all tensors, without their memory."""
        if isinstance(self.vit, Named):
            with torch.device("meta"):
                found = {name: tuple(tensor.shape) for name, tensor in self.backbone().state_dict().items()}
        else:
            found = expected_shapes(self.backbone, self.vit.depth)
        if self.projector is not None:
            with torch.device("meta"):
                projector = Projector(found["cls_token"][-1], seed=0, **asdict(self.projector))
            found |= {f"{_PROJECTOR}{name}": tuple(tensor.shape) for name, tensor in projector.state_dict().items()}
        return found

    def check(self, weights: Mapping[str, Any]) -> None:
        """Hold tensors against it: how many blocks and layers there are first, since these decide what is built.

        Raises:
            ValueError: naming the field or the tensor.
        """
        if isinstance(self.vit, Sizes):
            check_image_size(self.image_size, self.vit.patch_size)
        elif self.vit.image_size != self.image_size:
            raise ValueError(f"image_size is {self.image_size}, vit.image_size {self.vit.image_size}: they must agree")
        layers = sum(name.startswith(f"{_PROJECTOR}layers.") and name.endswith(".weight") for name in weights)
        counted = {"projector.depth": (self.projector.depth if self.projector else 0, layers)}
        if not isinstance(self.vit, Named):
            counted["vit.depth"] = (self.vit.depth, len(block_numbers(weights)))
        for field, (said, there) in counted.items():
            if said != there:
                raise ValueError(f"{field} is {said}, but there are tensors of {there}")
        try:
            shapes = self.shapes()
        except (AssertionError, ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # whatever timm and torch raise for sizes that make no model
            problem = f"{type(error).__name__}: {shown(error)}"
            raise ValueError(f"no model can be built as described ({problem})") from None
        check_shapes(weights, shapes)


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
        weights |= {f"{_PROJECTOR}{name}": tensor for name, tensor in state_of(model.projector).items()}
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
        problem = _first(error) if isinstance(error, ValidationError) else error
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
            {name.removeprefix(_PROJECTOR): weights.pop(name) for name in list(weights) if name.startswith(_PROJECTOR)}
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


def weights_digest(directory: Path) -> str:
    """SHA-256 of a stored model's weights, as its description names it."""
    return read_description(directory).weights_sha256


def read_description(directory: Path) -> Description:
    """A stored model's model.json. Raises ValueError naming file and field."""
    path = directory / "model.json"
    if not path.exists():
        raise ValueError(f"{path} does not exist: run the stage that makes it first")
    check_regular(path)
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; allowed: at most {_LARGEST:,}")
    try:
        return Description.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    """The first thing pydantic found: field, what is allowed, what was given."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("own", "released", "named"))
    if first["type"] == "json_invalid":
        return f"not valid JSON: {shown(first['msg'])}"
    if field == "format":
        return f"model format {shown(first['input'])!r}; this version reads {FORMAT!r}"
    given = "" if first["type"] == "missing" else f" (given: {shown(first['input'])})"
    return f"{shown(field) or 'the whole'}: {first['msg'][:1].lower()}{shown(first['msg'][1:])}{given}"

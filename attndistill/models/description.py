"""What a stored model is: the JSON beside its weights. Reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic.dataclasses import dataclass

from attndistill.core.words import shown
from attndistill.models.released import (
    STRICT,
    Architecture,
    Positive,
    block_numbers,
    check_image_size,
    check_shapes,
    expected_shapes,
    named,
)
from attndistill.models.teachers.reading import check_regular

FORMAT = "attndistill-model/1"
PROJECTOR = "projector."
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
        from attndistill.models.vit import build_vit

        vit = self.vit
        if isinstance(vit, Named):
            return named(vit.timm_name, vit.image_size)
        sizes = asdict(vit) | ({} if depth is None else {"depth": depth})
        return (
            Architecture(**sizes).build() if isinstance(vit, Architecture) else build_vit(self.image_size, 0, **sizes)
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all tensors, without their memory."""
        from attndistill.models.projector import Projector
        from attndistill.models.weightless import weightless

        if isinstance(self.vit, Named):
            with weightless():
                found = {name: tuple(tensor.shape) for name, tensor in self.backbone().state_dict().items()}
        else:
            found = expected_shapes(self.backbone, self.vit.depth)
        if self.projector is not None:
            with weightless():
                projector = Projector(found["cls_token"][-1], seed=0, **asdict(self.projector))
            found |= {f"{PROJECTOR}{name}": tuple(tensor.shape) for name, tensor in projector.state_dict().items()}
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
        layers = sum(name.startswith(f"{PROJECTOR}layers.") and name.endswith(".weight") for name in weights)
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
        raise ValueError(f"{path}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """The first thing pydantic found: field, what is allowed, what was given."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("own", "released", "named"))
    if first["type"] == "json_invalid":
        return f"not valid JSON: {shown(first['msg'])}"
    if field == "format":
        return f"model format {shown(first['input'])!r}; this version reads {FORMAT!r}"
    given = "" if first["type"] == "missing" else f" (given: {shown(first['input'])})"
    return f"{shown(field) or 'the whole'}: {first['msg'][:1].lower()}{shown(first['msg'][1:])}{given}"

"""The typed whole: what may be set, checked before anything heavy is imported.

`params.yaml` holds every default. Sections are strict: an unknown key, a wrong type or an impossible combination is
refused with its path, its value and what is allowed. Options of a variant come from the variant's own signature.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from attndistill.core.artifacts import digest_of
from attndistill.core.registry import Option, Registry
from attndistill.data import DATASETS
from attndistill.losses import AGGREGATIONS, GUIDANCE
from attndistill.probes import PROBES
from attndistill.training import OPTIMIZERS

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A strict, frozen part of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_by_alias=True)

    def plain(self) -> dict[str, Any]:
        """The section as JSON-able values under the names used in params.yaml."""
        return self.model_dump(mode="json", by_alias=True)


class Variant(Section):
    """A choice by name and its hyper-parameters."""

    name: str

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the variant."""
        return {key: value for key, value in self.plain().items() if key != "name"}


def variant(registry: Registry[Any]) -> Any:
    """The type of a choice among a registry's variants: one strict model each, told apart by `name`."""
    models = [_variant_model(name, options) for name, options in registry.declared().items()]
    if len(models) == 1:
        return models[0]
    union: Any = models[0]
    for model in models[1:]:
        union = union | model
    return Annotated[union, Field(discriminator="name")]


def _variant_model(name: str, options: tuple[Option, ...]) -> type[Variant]:
    fields: dict[str, Any] = {"name": (Literal[name], ...)}
    for option in options:
        fields[option.name] = (option.annotation, ... if option.required else option.default)
    return create_model(name, __base__=Variant, **fields)


DataSet: Any = variant(DATASETS)
Aggregation: Any = variant(AGGREGATIONS)
Guidance: Any = variant(GUIDANCE)
OptimizerChoice: Any = variant(OPTIMIZERS)
KnnProbe: Any = _variant_model("knn", PROBES.declared()["knn"])
LogisticProbe: Any = _variant_model("logistic", PROBES.declared()["logistic"])


class Data(Section):
    """Which images, and how train is split further."""

    set: DataSet
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]
    validation_seed: Count
    on_bad_image: Literal["error", "skip"]
    max_pixels: Positive


class Views(Section):
    """Training and evaluation views."""

    seed: Count
    image_size: Positive
    scale: tuple[Share, Share]
    ratio: tuple[PositiveFloat, PositiveFloat]
    flip_probability: Annotated[float, Field(ge=0, le=1)]
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    evaluation_crop: Share

    @field_validator("scale", "ratio", "mean", "std", mode="before")
    @classmethod
    def _sequence(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _ordered(self) -> "Views":
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} [{low}, {high}] must be [smallest, largest]")
        return self


class Vit(Section):
    """A vision transformer (Table 7)."""

    embed_dim: Positive
    depth: Positive
    num_heads: Positive
    patch_size: Positive
    mlp_ratio: PositiveFloat
    position: Literal["learnable", "sincos"]

    @model_validator(mode="after")
    def _possible(self) -> "Vit":
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.position == "sincos" and self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of 4, which sincos positions need")
        return self


class Recipe(Section):
    """A training recipe (Table 8's names)."""

    epochs: Positive
    batch_size: Positive
    base_learning_rate: PositiveFloat
    warmup_epochs: Count
    precision: Literal["fp32", "bf16"]
    optimizer: OptimizerChoice

    @property
    def peak_learning_rate(self) -> float:
        """Base learning rate x batch size / 256."""
        return self.base_learning_rate * self.batch_size / 256

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> "Recipe":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be fewer than epochs {self.epochs}")
        return self


class Decoder(Section):
    """The masked autoencoder's decoder."""

    embed_dim: Annotated[int, Field(gt=0, multiple_of=4)]
    depth: Positive
    num_heads: Positive
    normalize_pixels: bool

    @model_validator(mode="after")
    def _possible(self) -> "Decoder":
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self


class Pretrain(Section):
    """Masked autoencoding (supplementary sec. 4)."""

    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    decoder: Decoder
    probe_every: Positive
    recipe: Recipe


class Targets(Section):
    """The cache of the teacher's answers."""

    cache: bool
    views: Positive
    verify: Positive


class Distill(Section):
    """The method (paper sec. 3)."""

    projector_depth: Positive
    alignment_weight: Weight
    lambda_: Weight = Field(alias="lambda")
    aggregation: Aggregation
    attention_loss: Guidance
    interpolation: bool
    recipe: Recipe

    @model_validator(mode="after")
    def _learns_something(self) -> "Distill":
        if self.alignment_weight == self.lambda_ == 0:
            raise ValueError("alignment_weight and lambda are both 0: nothing would be learned")
        return self


class Probes(Section):
    """How features are judged."""

    projector_layer: Count
    knn: KnnProbe
    logistic: LogisticProbe


class Attention(Section):
    """How attention is compared with the teacher's, and which test images get pictures."""

    temperature: PositiveFloat
    images: tuple[Count, ...]
    images_per_class: Positive | None

    @field_validator("images", mode="before")
    @classmethod
    def _sequence(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class Runtime(Section):
    """How a stage runs; nothing here belongs to what is computed."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: Positive | None
    processes: Positive
    workers: Count
    micro_batch_size: Positive | None
    evaluation_batch_size: Positive
    checkpoint_seconds: Weight
    tracking: bool


class Config(Section):
    """Everything."""

    seeds: tuple[Count, ...]
    teacher_seed: Count
    data: Data
    views: Views
    teacher: Vit
    student: Vit
    pretrain: Pretrain
    targets: Targets
    distill: Distill
    probe: Probes
    attention: Attention
    runtime: Runtime

    @field_validator("seeds", mode="before")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if isinstance(value, list) and not 0 < len(set(map(str, value))) == len(value):
            raise ValueError(f"{value}; allowed: one or more integers, all different")
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        size = self.views.image_size
        for name, vit in (("teacher", self.teacher), ("student", self.student)):
            if size % vit.patch_size:
                raise ValueError(f"{name}.patch_size {vit.patch_size} does not divide views.image_size {size}")
            patches = (size // vit.patch_size) ** 2
            if round(patches * (1 - self.pretrain.mask_ratio)) in (0, patches):
                raise ValueError(
                    f"pretrain.mask_ratio {self.pretrain.mask_ratio} hides all or none of {patches} patches ({name})"
                )
        if self.distill.lambda_ > 0:
            self._guidable()
        if self.probe.projector_layer > self.distill.projector_depth:
            raise ValueError(
                f"probe.projector_layer {self.probe.projector_layer}; allowed: 0 to distill.projector_depth "
                f"{self.distill.projector_depth}"
            )
        return self

    def _guidable(self) -> None:
        if not self.distill.interpolation and self.teacher.patch_size != self.student.patch_size:
            raise ValueError(
                f"distill.interpolation is off, but the patch grids differ (teacher.patch_size "
                f"{self.teacher.patch_size}, student.patch_size {self.student.patch_size})"
            )
        if self.distill.aggregation.name == "none" and self.teacher.num_heads != self.student.num_heads:
            raise ValueError(
                f"distill.aggregation none matches heads one to one, but teacher.num_heads is "
                f"{self.teacher.num_heads} and student.num_heads {self.student.num_heads}"
            )

    def digest(self, *sections: str) -> str:
        """SHA-256 of the named sections ("distill", "views", ...): what a result depends on."""
        return digest_of({name: self.plain()[name] for name in sections})


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 mapping, as DVC reads it. Raises ValueError naming the file and line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping, not {type(value).__name__}")
    return value


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, key by key; a changed `name` drops the options of the old variant."""
    merged = dict(base)
    if "name" in changes and changes["name"] != base.get("name") and "name" in base:
        merged = {}
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = overlay(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}. Raises ValueError when two keys contradict each other."""
    tree: dict[str, Any] = {}
    for path, value in dotted.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path}: {parent} is set to a value already")
        if leaf in node:
            raise ValueError(f"{path}: settings below it are given already")
        node[leaf] = value
    return tree


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        path = f"{prefix}{key}"
        found |= flat(item, f"{path}.") if isinstance(item, Mapping) else {path: item}
    return found


def resolve(layers: Sequence[Mapping[str, Any]]) -> Config:
    """Lay the layers over one another and check the whole.

    Raises:
        ValueError: one line per problem, with the path, what was given and what is allowed.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = overlay(merged, layer)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        problems = [_explain(problem, merged) for problem in error.errors(include_url=False)]
        raise ValueError("; ".join(problems)) from None


def _explain(problem: Any, merged: Mapping[str, Any]) -> str:
    path = _known_path(problem["loc"], merged)
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key (given {problem['input']!r}){_siblings(path, merged)}"
        case "missing":
            return f"{path}: missing"
        case "union_tag_not_found":
            return f"{path}.name: missing"
        case "tuple_type" | "list_type":
            return f"{path}: {problem['input']!r}; allowed: a list"
        case "model_type" | "model_attributes_type":
            return f"{path}: {problem['input']!r}; allowed: a mapping"
        case "bool_type":
            return f"{path}: {problem['input']!r}; allowed: true or false"
        case "union_tag_invalid":
            return f"{path}.name: {context['tag']!r}; allowed: {context['expected_tags']}"
        case "value_error":
            return f"{path}: {context['error']}" if path else str(context["error"])
        case "literal_error":
            return f"{path}: {problem['input']!r}; allowed: {context['expected']}"
    return f"{path}: {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _known_path(location: Sequence[int | str], merged: Any) -> str:
    """The path as written in params.yaml: pydantic puts the variant's tag between section and option."""
    parts: list[str] = []
    node = merged
    for part in location:
        if isinstance(node, Mapping) and part not in node and node.get("name") == part:
            continue
        node = node.get(part) if isinstance(node, Mapping) else None
        parts.append(str(part))
    return ".".join(parts)


def _siblings(path: str, merged: Any) -> str:
    model: Any = Config
    for part in path.split(".")[:-1]:
        field, merged = next(f for n, f in model.model_fields.items() if part in (n, f.alias)), merged[part]
        models = get_args(field.annotation) or (field.annotation,)
        model = models[0] if len(models) == 1 else next(m for m in models if m.__name__ == merged["name"])
    return f"; allowed: {', '.join(f.alias or n for n, f in model.model_fields.items())}"

"""The sections of the configuration: names, types, bounds, and what fits together. `params.yaml` holds every value."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model, field_validator, model_validator

from attndistill.config.fitting import check_fit
from attndistill.config.layers import overlay
from attndistill.config.method import Distill, Targets
from attndistill.core.artifacts import digest_of, first_problem
from attndistill.core.sections import Count, Positive, PositiveFloat, Section, Share, Weight, added, fields_of, variant
from attndistill.data import DATASETS
from attndistill.evaluations import EVALUATIONS, evaluations
from attndistill.models.teachers import TEACHER_FORMATS, TEACHER_SOURCES
from attndistill.training.recipe import Recipe

DataSet: Any = variant(DATASETS)
TeacherSource: Any = variant(TEACHER_SOURCES)
Seed = Annotated[int, Field(ge=0, lt=10**16)]  # results name curves by it
_MOST_THREADS = 1024  # torch does not survive millions


def _check_heads(embed_dim: int, num_heads: int) -> None:
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")


class Download(Section):
    """A published file: fetched by its own stage, kept only with the digest that was published."""

    url: Annotated[str, Field(pattern="^(https?|file)://")]
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")]
    unpack: bool


ExportFormat = Literal["timm", "pt2", "onnx"]
LICENCE = "[A-Za-z0-9][A-Za-z0-9.+ -]{0,80}"  # it becomes a line of YAML


class Export(Section):
    """A model that a stage of its own hands on."""

    formats: list[ExportFormat] = Field(default=["timm", "pt2"], min_length=1)
    licence: Annotated[str, Field(pattern=f"^{LICENCE}$")] = "unknown"
    head: Literal["logistic", "finetune"] | None = None


class Data(Section):
    """Which images, and how train is split further."""

    set: DataSet
    validation_fraction: Annotated[float, Field(gt=0, le=0.5)]  # the larger part is what k-NN looks neighbours up in
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
    resampling: Literal["exact", "uint8"] = added("exact")
    decoding: Literal["full", "scaled"] = added("full")

    def told(self) -> str:
        """The variants of pixels that were chosen, as the end of a sentence; empty where none was."""
        chosen = [f"{name} {way}" for name, way in self.deciding().items() if name in ("resampling", "decoding")]
        return f", pixels by {' and '.join(chosen)}" if chosen else ""

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
        _check_heads(self.embed_dim, self.num_heads)
        if self.position == "sincos" and self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of 4, which sincos positions need")
        return self


class Teacher(Vit):
    """The teacher: its sizes, and where it comes from. None is masked autoencoding here."""

    source: TeacherSource | None
    check: Literal["on", "off"]
    check_images: Annotated[int, Field(ge=50)]
    check_floor: Weight
    check_reference: Annotated[float, Field(ge=0, le=100)] | None
    check_slack: Weight

    def sizes(self) -> dict[str, Any]:
        """The architecture alone."""
        return {name: getattr(self, name) for name in Vit.model_fields}

    @field_validator("source")
    @classmethod
    def _known_format(cls, source: Any) -> Any:
        allowed = ("auto", *TEACHER_FORMATS.names())
        given = getattr(source, "format", "auto")
        if given not in allowed:
            raise ValueError(f"format {given!r}; allowed: {', '.join(allowed)}")
        return source


class Decoder(Section):
    """The masked autoencoder's decoder."""

    embed_dim: Annotated[int, Field(gt=0, multiple_of=4)]
    depth: Positive
    num_heads: Positive
    normalize_pixels: bool
    sees: Literal["tokens", "class_token"] = added("tokens")

    @model_validator(mode="after")
    def _possible(self) -> "Decoder":
        _check_heads(self.embed_dim, self.num_heads)
        return self


class Pretrain(Section):
    """Masked autoencoding (supplementary sec. 4)."""

    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    decoder: Decoder
    probe_every: Positive
    recipe: Recipe


class Labels(Section):
    """Which training images keep their label for the probes: all, a drawn share of every class, or a list's."""

    fraction: Share | None
    list_file: str | None
    seed: Count

    @model_validator(mode="after")
    def _one_way(self) -> "Labels":
        if self.fraction is not None and self.list_file is not None:
            raise ValueError("fraction and list_file are both given; allowed: one of them, or neither for all labels")
        return self


class _Probes(Section):
    """How models are judged: `projector_layer`, `labels`, and each registered evaluation that is turned on."""

    projector_layer: Count
    labels: Labels

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Evaluation -> its options, of those that are turned on, in the order of their columns."""
        given = self.plain()
        return {name: given[name] for name in evaluations() if given.get(name) is not None}


def _probes() -> Any:
    """The section with a field for every registered evaluation; null leaves one out."""
    found: dict[str, Any] = {}
    for name, one in evaluations().items():
        if one.on != "maps":
            options = create_model(name, __base__=Section, **fields_of(EVALUATIONS.declared()[name]))
            found[name] = (options | None, None)
    return create_model("Probes", __base__=_Probes, **found)


Probes: Any = _probes()


class Attention(Section):
    """How attention is compared with the teacher's, and which test images get pictures."""

    temperature: PositiveFloat
    images: tuple[Count, ...] | None
    images_per_class: Positive | None

    @field_validator("images", mode="before")
    @classmethod
    def _sequence(cls, value: Any) -> Any:
        if value == []:
            raise ValueError(f"{value}; allowed: one test image or more")
        return tuple(value) if isinstance(value, list) else value


class Runtime(Section):
    """How a stage runs; nothing here belongs to what is computed."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: Annotated[int, Field(gt=0, le=_MOST_THREADS)] | None
    processes: Positive
    workers: Count
    micro_batch_size: Positive | None
    evaluation_batch_size: Positive
    checkpoint_seconds: Weight
    tracking: bool
    speeds: bool


class JudgedOn(Section):
    """A further data set to judge models on: given is what differs from `data`, `views` and `probe`.

    `preset` names the transfer set that it starts from. One that gives no `data` is the experiment's own images,
    judged in another way (few labels).
    """

    preset: str | None = None
    data: Data
    views: Views
    probe: dict[str, Any] = Field(default_factory=dict)


class Config(Section):
    """Everything."""

    seeds: tuple[Seed, ...]
    teacher_seed: Seed
    downloads: dict[str, Download]
    data: Data
    views: Views
    datasets: dict[str, JudgedOn]
    teacher: Teacher
    student: Vit
    pretrain: Pretrain
    targets: Targets
    distill: Distill
    probe: Probes
    attention: Attention
    exports: dict[str, Export]
    runtime: Runtime

    @field_validator("downloads", "datasets", "exports")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch("[A-Za-z0-9_-]+", name):
                raise ValueError(f"name {name!r}; allowed: letters, digits, - and _ (it becomes a folder)")
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if isinstance(value, list) and not 0 < len(set(map(str, value))) == len(value):
            raise ValueError(f"{value}; allowed: one or more integers, all different")
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        check_fit(self)
        return self

    def data_of(self, name: str) -> Data:
        """The section `data` of a data set; "" is the experiment's own."""
        return self.datasets[name].data if name else self.data

    def views_of(self, name: str) -> Views:
        """The section `views` of a data set."""
        return self.datasets[name].views if name else self.views

    def probe_of(self, name: str) -> Any:
        """The section `probe` of a data set; raises ValueError for one that is refused."""
        given = self.datasets[name].probe if name else {}
        if not given:
            return self.probe
        try:
            return Probes.model_validate(overlay(self.probe.plain(), given))
        except ValidationError as error:
            raise ValueError(f"datasets.{name}.probe.{first_problem(error)}") from None

    def judging(self, name: str) -> "Config":
        """The configuration of whatever judges models on a data set: `probe` is as it is there."""
        return self.model_copy(update={"probe": self.probe_of(name)})

    def digest(self, *sections: str) -> str:
        """SHA-256 of the named sections ("distill", "views", ...): what a result depends on."""
        deciding = self.deciding()
        return digest_of({name: deciding[name] for name in sections})

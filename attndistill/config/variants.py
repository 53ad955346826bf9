"""Strict sections, and choices among registered variants: their options come from the variants' own signatures."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from attndistill.core.registry import Option, Registry
from attndistill.data import DATASETS
from attndistill.evaluations import EVALUATIONS
from attndistill.losses import AGGREGATIONS, EMBEDDING_LOSSES, GUIDANCE, SIGNALS
from attndistill.models.teachers import TEACHER_SOURCES
from attndistill.training import OPTIMIZERS


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
Signal: Any = variant(SIGNALS)
EmbeddingLoss: Any = variant(EMBEDDING_LOSSES)
OptimizerChoice: Any = variant(OPTIMIZERS)
KnnProbe: Any = _variant_model("knn", EVALUATIONS.declared()["knn"])
LogisticProbe: Any = _variant_model("logistic", EVALUATIONS.declared()["logistic"])
TeacherSource: Any = variant(TEACHER_SOURCES)

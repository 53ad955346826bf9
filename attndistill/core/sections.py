"""Strict sections of settings, and choices among registered variants: their options come from their signatures."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from attndistill.core.registry import Option, Registry

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


_ADDED: dict[str, Any] = {"added": True}


def added(default: Any) -> Any:
    """A field that older settings lack: digests leave it out where it is as it was then, and so stay."""
    return Field(default, json_schema_extra=_ADDED)


class Section(BaseModel):
    """A strict, frozen part of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_by_alias=True)

    def plain(self) -> dict[str, Any]:
        """The section as JSON-able values under the names used in params.yaml."""
        return self.model_dump(mode="json", by_alias=True)

    def deciding(self) -> dict[str, Any]:
        """`plain`, as digests know it (see `added`)."""
        plain = self.plain()
        for name, field in type(self).model_fields.items():
            value, key = getattr(self, name), field.alias or name
            if isinstance(value, Section):
                plain[key] = value.deciding()
            elif field.json_schema_extra == _ADDED and value == field.default:
                del plain[key]
        return plain


class Variant(Section):
    """A choice by name and its hyper-parameters."""

    name: str

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the variant."""
        return {key: value for key, value in self.plain().items() if key != "name"}


def variant(registry: Registry[Any]) -> Any:
    """The type of a choice among a registry's variants: one strict model each, told apart by `name`."""
    models = [
        create_model(name, __base__=Variant, **{"name": (Literal[name], ...), **fields_of(options)})
        for name, options in registry.declared().items()
    ]
    if len(models) == 1:
        return models[0]
    union: Any = models[0]
    for model in models[1:]:
        union = union | model
    return Annotated[union, Field(discriminator="name")]


def fields_of(options: tuple[Option, ...]) -> dict[str, Any]:
    """What pydantic needs to know of a variant's hyper-parameters."""
    return {option.name: (option.annotation, ... if option.required else option.default) for option in options}

"""Every registered variant, by discovery: what its source declares is what it is, and its options are bounded."""

import importlib
import inspect
import pkgutil
import typing

import pytest
from pydantic import BaseModel, ValidationError, create_model

import attndistill
from attndistill.core.registry import Registry


def registries() -> dict[str, Registry]:
    """Every Registry that a package of attndistill, at any depth, holds in its __init__."""
    found = {}
    for package in pkgutil.walk_packages(attndistill.__path__, "attndistill."):
        if package.ispkg:
            values = vars(importlib.import_module(package.name)).items()
            place = package.name.removeprefix("attndistill.")
            found |= {f"{place}.{name}": value for name, value in values if isinstance(value, Registry)}
    return found


REGISTRIES = registries()
VARIANTS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
OPTIONS = [(*variant, option) for variant in VARIANTS for option in REGISTRIES[variant[0]].declared()[variant[1]]]


def test_every_kind_of_variant_is_found():
    assert set(REGISTRIES) == {
        "data.DATASETS",
        "evaluations.EVALUATIONS",
        "losses.AGGREGATIONS",
        "losses.EMBEDDING_LOSSES",
        "losses.GUIDANCE",
        "losses.SIGNALS",
        "models.teachers.TEACHER_FORMATS",
        "models.teachers.TEACHER_SOURCES",
        "training.OPTIMIZERS",
    }


@pytest.mark.parametrize("kind", REGISTRIES)
def test_what_the_source_declares_is_what_is_registered(kind):
    registry = REGISTRIES[kind]
    for name in registry.names():
        assert callable(registry[name])
    assert set(registry.names()) == set(registry._entries)
    with pytest.raises(ValueError, match=f"unknown {registry.kind} 'nonesuch'; allowed: {', '.join(registry.names())}"):
        registry["nonesuch"]


@pytest.mark.parametrize(("kind", "name"), VARIANTS)
def test_options_names_types_and_defaults_are_those_of_the_signature(kind, name):
    entry = inspect.unwrap(REGISTRIES[kind][name])
    function = entry.__init__ if inspect.isclass(entry) else entry
    hints = typing.get_type_hints(function, include_extras=True)
    keyword_only = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    declared = REGISTRIES[kind].declared()[name]
    assert [option.name for option in declared] == [parameter.name for parameter in keyword_only]
    for option, parameter in zip(declared, keyword_only, strict=True):
        assert str(option.annotation) == str(hints[option.name])  # Field() compares by identity
        assert option.required == (parameter.default is parameter.empty)
        assert option.required or option.default == parameter.default


@pytest.mark.parametrize(("kind", "name"), VARIANTS)
def test_a_variant_says_what_it_is(kind, name):
    assert inspect.getdoc(inspect.unwrap(REGISTRIES[kind][name]))


def model(option: typing.Any) -> type[BaseModel]:
    config = {"strict": True, "allow_inf_nan": False}
    return create_model("One", __config__=config, value=(option.annotation, ...))


@pytest.mark.parametrize(("kind", "name", "option"), OPTIONS, ids=[f"{k}-{n}-{o.name}" for k, n, o in OPTIONS])
def test_an_option_takes_its_default_and_refuses_nonsense(kind, name, option):
    one = model(option)
    if not option.required:
        assert one(value=option.default).value == option.default
    for nonsense in (object(), -1, -0.5, float("nan"), float("inf"), [], {}, "", "nonsense"):
        text = isinstance(nonsense, str) and "str" in str(option.annotation)  # a path may be any text
        if not text:
            with pytest.raises(ValidationError):
                one(value=nonsense)

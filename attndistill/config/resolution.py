"""From layers to a checked configuration, or to one line per problem: path, value, what is allowed."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from attndistill.config.layers import overlay
from attndistill.config.schema import Config
from attndistill.models.sizes import with_presets


def resolve(layers: Sequence[Mapping[str, Any]]) -> Config:
    """Lay the layers over one another and check the whole.

    Raises:
        ValueError: one line per problem, with the path, what was given and what is allowed.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = overlay(merged, with_presets(layer))
    merged = _with_whole_datasets(merged)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        problems = [_explain(problem, merged) for problem in error.errors(include_url=False)]
        raise ValueError("; ".join(problems)) from None


def _with_whole_datasets(merged: dict[str, Any]) -> dict[str, Any]:
    """Each further data set says what differs from the experiment's own."""
    given = merged.get("datasets")
    if not isinstance(given, Mapping):
        return merged
    base: dict[str, Any] = {name: merged[name] for name in ("data", "views") if name in merged}
    whole = {name: overlay(base, one) if isinstance(one, Mapping) else one for name, one in given.items()}
    return {**merged, "datasets": whole}


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
        case "model_type" | "model_attributes_type" | "dict_type":
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
        merged = merged[part]
        if get_origin(model) is dict:  # entries under names of the user's choice
            model = get_args(model)[1]
            continue
        field = next(f for n, f in model.model_fields.items() if part in (n, f.alias))
        model = field.annotation
        if get_origin(model) is dict:
            continue
        models = _models(field.annotation)
        model = models[0] if len(models) == 1 else next(m for m in models if m.__name__ == merged["name"])
    return f"; allowed: {', '.join(f.alias or n for n, f in model.model_fields.items())}"


def _models(annotation: Any) -> list[Any]:
    """The sections an annotation allows: itself, or those of an optional choice among variants."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in get_args(annotation) for model in _models(part)]

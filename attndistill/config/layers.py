"""Layers of settings: YAML files and dotted keys, laid over one another."""

from collections.abc import Mapping
from typing import Any


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

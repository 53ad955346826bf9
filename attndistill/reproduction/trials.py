"""A trial of a study, made again: the study's own file, narrowed to the one point that was tried."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attndistill.core.artifacts import read_json, write_text
from attndistill.core.plain_yaml import read_yaml
from attndistill.core.words import shown
from attndistill.reproduction.recipe import Recipe

_ELSEWHERE = ("--storage", "--artifacts", "-j")  # a trial that is made again has a storage of its own


def narrowed(recipe: Recipe, folder: Path, scratch: Path) -> Recipe:
    """The recipe with a study file of one trial, written into the workplace's experiment `folder`.

    Raises:
        ValueError: the study file is not part of the code, or does not search what was tried.
    """
    assert recipe.trial is not None
    words = _without_storage(recipe.words)
    file = folder / next((word for word in words[1:] if not word.startswith("-")), "")
    if not file.is_file():
        raise ValueError(f"{recipe.title}: its study file {shown(words[1:2])} is not in {recipe.code}")
    study = read_yaml(file)
    point = {key: _value(study, key, text, recipe) for key, text in recipe.trial.items()}
    none = {"name": "none", "startup_trials": 0, "warmup_epochs": 0}
    write_text(file, json.dumps({**study, "trials": 1, "timeout": None, "pruner": none, "enqueue": [point]}, indent=2))
    own = ["--storage", str(scratch / "study.journal"), "--artifacts", str(scratch / "artifacts")]
    return replace(recipe, words=[*words, *own])


def _without_storage(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word in _ELSEWHERE:
            next(remaining, None)
        elif not word.startswith(tuple(f"{one}=" for one in _ELSEWHERE)):
            kept.append(word)
    return kept


def _value(study: Mapping[str, Any], key: str, text: str, recipe: Recipe) -> Any:
    """A tried value by its text: of a choice the one that reads so."""
    entry = study.get("search", {}).get(key)
    if not isinstance(entry, Mapping):
        raise ValueError(f"{recipe.title}: {shown(key)} is not searched by its study file in {recipe.code}")
    if entry.get("type") == "choice":
        return next((one for one in entry.get("choices", []) if str(one) == text), text)
    return (int if entry.get("type") == "int" else float)(text)


def measured(project: Path) -> dict[str, float]:
    """The objectives of the one trial that a narrowed study has run below a project."""
    for file in sorted(project.rglob("outputs/study/*/found.json")):
        found = read_json(file)
        values = next((trial["values"] for trial in found["trials"] if trial["state"] == "complete"), None)
        if values is not None:
            return dict(zip(found["objectives"], values, strict=True))
    return {}

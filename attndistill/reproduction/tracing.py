"""`attndistill trace`: from a figure to the run that made it, to the runs of its inputs, back to data and teacher.

The chain is one of digests: an input's md5 is some stage's output. Names and times decide nothing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attndistill.core.artifacts import read_json
from attndistill.core.places import project_folder
from attndistill.core.progress import say
from attndistill.core.words import shown
from attndistill.evaluations import evaluations
from attndistill.experiments import open_experiment
from attndistill.reproduction.cache import caches_of
from attndistill.reproduction.recipe import Origins, Recipe
from attndistill.results import AttentionFile, ProbeFile
from attndistill.tracking.recorded import RecordedRun

_HEADS = ("result file", "commit", "run", "again")


def trace(figure: str | None, column: str | None, folder: Path) -> int:
    """Print the chain of a figure.

    Args:
        figure: a result file, REVISION:PATH of one, a run, or with `column` a row of the report; None: a line for each
            result file of the experiment, with its commit and run.
        column: such as knn_top1 or kl_to_teacher.
        folder: of the experiment, for a row.

    Raises:
        ValueError: no such figure, or nothing says what made it.
    """
    origins = Origins(project_folder(Path.cwd()))
    if figure is None:
        return _every_figure(origins, folder)
    if column is not None:
        figure = _cell(folder, figure, column)
    recipe = origins.find(figure)
    say(recipe.title)
    _show(origins, recipe, "  ", set())
    return 0


def _every_figure(origins: Origins, folder: Path) -> int:
    """What the report's page cannot say of its figures: commit and run of each result file."""
    results, lines = open_experiment(folder).layout.results, list[tuple[str, ...]]()
    for place in [
        path for kind in ("probes", "attention", "training") for path in sorted(results.glob(f"{kind}/*.json"))
    ]:
        name = os.path.relpath(place)
        try:
            recipe = origins.find(name)
        except ValueError as error:
            lines.append((name, "unknown", "unknown", shown(error)))
            continue
        run, commit = recipe.run, recipe.commit[:12] + (" and a patch" if recipe.patch else "")
        known = (run.id, str(run.code.get("commit"))[:12] + (" and a patch" if run.patch else "")) if run else None
        lines.append((name, *(known[::-1] if known else (commit, "not recorded here")), f"attndistill rebuild {name}"))
    if not lines:
        raise ValueError(f"{folder} has no results: run `attndistill pipeline` or `dvc repro` first")
    widths = [max(map(len, column)) for column in zip(*[*lines, _HEADS], strict=True)]
    for line in [_HEADS, *lines]:
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _cell(folder: Path, row: str, column: str) -> str:
    """The result file that a cell of the report is read from; prints the cell."""
    layout = open_experiment(folder).layout
    keys = {
        evaluation.key(name): (evaluation, name) for evaluation in evaluations().values() for name in evaluation.figures
    }
    if column not in keys:
        raise ValueError(f"unknown column {shown(column)!r}; allowed: {', '.join(keys)}")
    evaluation, name = keys[column]
    place = layout.result("attention" if evaluation.on == "maps" else "probes", f"{row}.json")
    if not place.is_file():
        rows = ", ".join(sorted(path.stem for path in place.parent.glob("*.json"))) or "none"
        raise ValueError(f"no row {shown(row)!r} is measured; allowed: {rows}")
    if evaluation.on == "maps":
        figures = AttentionFile.read(place).figures
    else:
        probes = ProbeFile.read(place).probes
        figures = probes[evaluation.name].figures if evaluation.name in probes else {}
    if name not in figures:
        raise ValueError(f"{place} has no {column}: it was not measured")
    figure = figures[name]
    sd = "" if figure.sd is None else f" ± {figure.sd:.4g}"
    seeds = ", ".join(map(str, figure.seeds))
    say(f"{row}, {column}: {figure.mean:.6g}{sd} (n = {figure.n}, seeds {seeds}, protocol {figure.protocol})")
    return str(place)


def _show(origins: Origins, recipe: Recipe, indent: str, seen: set[str]) -> None:
    run = recipe.run
    for line in _facts(recipe, run):
        say(f"{indent}{line}")
    for path, md5 in recipe.inputs.items():
        if md5 in seen:
            say(f"{indent}from {path} ({md5}), as above")
            continue
        seen.add(md5)
        say(f"{indent}from {path} ({md5})")
        for line in _stated(origins, recipe, path, md5):
            say(f"{indent}  {line}")
        maker = origins.maker(recipe, path)
        if maker is None:
            say(f"{indent}  comes from outside, or nothing says what made it")
            continue
        if maker.run is None:
            maker = origins.with_run(maker, path, md5)
        _show(origins, maker, f"{indent}  ", seen)


def _facts(recipe: Recipe, run: RecordedRun | None) -> Iterator[str]:
    yield f"made by `{recipe.command}` ({recipe.name}) at {recipe.code}"
    if run is not None:
        seeds = f", seeds {run.tags['seeds']}" if "seeds" in run.tags else ""
        where = ", ".join(filter(None, (str(run.environment.get("processor", "")), run.tags.get("device", ""))))
        commit = str(run.code.get("commit"))[:12] + (" and a patch" if run.patch else "")
        yield f"run {run.id} of commit {commit}{seeds}, on {where}; again: attndistill rebuild {run.id[:8]}"
        for place, digest in run.accounts.items():
            if not any(place.startswith(f"{path}/") for path in recipe.inputs):  # an input says so itself
                yield f"{place} {digest}"
    else:
        path = next((path for path in recipe.outputs if "results/" in path), "")
        yield f"no run is recorded here{f'; again: attndistill rebuild {path}' if path else ''}"


def _stated(origins: Origins, recipe: Recipe, path: str, md5: str) -> Iterator[str]:
    """What an input says of itself: of prepared data its digest, of weights each file's md5."""
    cache = caches_of(origins.project / (recipe.folder or "."))
    if not md5.endswith(".dir") or not cache.has(md5):
        return
    for name, inner in cache.listing(md5):
        if name.endswith(".safetensors"):
            yield f"{name} {inner}"
        if name == "manifest.json" and (place := cache.find(inner)) is not None:
            with suppress(ValueError):
                stated: Any = read_json(place)
                for key in ("dataset", "digest"):
                    if isinstance(stated, Mapping) and key in stated:
                        yield f"{key} {shown(stated[key])}"

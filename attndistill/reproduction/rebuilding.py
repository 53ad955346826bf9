"""`attndistill rebuild`: make a figure again from its commit, patch, command and inputs, and hold it against what was.

Inputs are taken by their md5 from DVC's cache, from the working tree where it still holds those bytes, or from a
remote; where they are nowhere, the stages that make them run first, in the same place. Nothing outside a temporary
folder is written, but for the record of the rebuilding and git's list of worktrees, which ends as it began.
"""

import errno
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attndistill.config import flat, read_yaml
from attndistill.core.artifacts import write_json, write_text
from attndistill.core.places import project_folder
from attndistill.core.progress import say
from attndistill.core.words import shown
from attndistill.reproduction.cache import caches_of
from attndistill.reproduction.comparison import DIFFERS, SAME_FIGURE, Row, compared, reasons, table
from attndistill.reproduction.recipe import Origins, Recipe
from attndistill.reproduction.supply import Step, Supply, link_outside, remove
from attndistill.reproduction.trials import measured, narrowed
from attndistill.reproduction.verification import setting_faults
from attndistill.reproduction.workplace import (
    Workplace,
    differing_versions,
    fresh_environment,
    scratch_folder,
)
from attndistill.tracking import Recorder
from attndistill.tracking.inputs import md5_of
from attndistill.tracking.lineage import processor

_WHERE = "import torch; print('cuda ' + torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"


def rebuild(reference: str, *, environment: str = "current", dry_run: bool = False) -> int:
    """Make a figure again; prints the table of what is the same.

    Args:
        reference: a run's id or the beginning of it, a result file, or REVISION:PATH of one.
        environment: "current", or "same" for a fresh virtual environment of the run's own requirements.
        dry_run: only say what it would need.

    Returns:
        0 the same, 1 differs.

    Raises:
        ValueError: it cannot be made again; one line says what is missing.
    """
    begun = time.monotonic()
    origins = Origins(project_folder(Path.cwd()))
    recipe = origins.find(reference)
    say(f"{recipe.title}: `{recipe.command}` at {recipe.code}")
    for note in recipe.notes:
        say(f"note: {note}")
    try:
        with scratch_folder() as scratch:
            return _dry(origins, recipe, scratch) if dry_run else _rebuilt(origins, recipe, scratch, environment, begun)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"the disk of temporary folders is full ({error.filename}): set TMPDIR to another") from None


def _rebuilt(origins: Origins, recipe: Recipe, scratch: Path, environment: str, begun: float) -> int:
    python = fresh_environment(recipe, scratch / "environment") if environment == "same" else sys.executable
    supply = Supply(origins, scratch, python)
    with ExitStack() as stack:
        place = stack.enter_context(supply.opened(recipe))
        config = _config(place, recipe)
        with _recorded(origins, recipe, config) as recorder:
            plan = supply.plan(recipe)
            say(f"inputs: {plan.summary()}")
            made = supply.lay_out(plan, place)
            if recipe.trial is not None:
                recipe = narrowed(recipe, place.folder_of(recipe), scratch)
            for path in recipe.outputs:  # of results that git keeps, the tree has those of then
                remove(place.project / path)
            made += link_outside(origins, recipe, place)
            supply.run(place, recipe)
            then = recipe.run.requirements if recipe.run and environment == "current" else ()
            versions = differing_versions(then)
            given = [_environment_row(recipe, versions), _configuration_row(recipe, config, place), *made]
            results = [*_figures(recipe, place), *_outputs(origins, recipe, place, scratch / "then")]
            same = not any(row.verdict == DIFFERS for row in results)
            why = [] if same else [Row("reason", *_reason(recipe, place, versions, given))]
            rows = [*given, *results, *why]
            print(table(rows))
            beside = time.monotonic() - begun - supply.seconds
            verdict = "same" if same else "differs"
            say(f"{verdict}: {recipe.title}; stages took {supply.seconds:.0f} s, everything else {beside:.0f} s")
            _tell(recorder, recipe, rows, verdict, scratch)
    return int(not same)


def _config(place: Workplace, recipe: Recipe) -> dict[str, Any] | None:
    """The configuration that code and command line give today, dotted; None where that code cannot say."""
    given = _settings(recipe.words)
    item = recipe.name.partition("@")[2].partition("@")[0]
    for row in ([item] if item else []), []:
        text = place.ask(recipe, "-m", "attndistill", "config", *(["--row", *row] if row else []), *given)
        if text is not None:
            break
    else:
        return None
    file = place.project.parent / "config.yaml"
    write_text(file, text)
    return flat(read_yaml(file))


def _settings(words: Sequence[str]) -> list[str]:
    """The settings of a command line: --section.key value or --section.key=value."""
    found: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, _ = word.removeprefix("--").partition("=")
        if word.startswith("--") and ("." in name or name in ("seeds", "teacher_seed")):
            found += [word] if equals else [word, following]
    return found


def _configuration_row(recipe: Recipe, config: Mapping[str, Any] | None, place: Workplace) -> Row:
    if recipe.trial is not None:
        return Row("configuration", "of the study", ", ".join(f"{key}={text}" for key, text in recipe.trial.items()))
    if recipe.run is not None and not recipe.params:
        if config is None:
            return Row("configuration", "unknown", "its code prints none")
        then = {key: value for key, value in flat(recipe.run.config).items() if not key.startswith("runtime.")}
        now = {key: value for key, value in config.items() if not key.startswith("runtime.")}
        other = [key for key in sorted({**then, **now}) if then.get(key) != now.get(key)]
        changes = "; ".join(f"{key} {shown(then.get(key))} -> {shown(now.get(key))}" for key in other[:5])
        return Row("configuration", DIFFERS if other else "same values", changes)
    folder = place.folder_of(recipe)
    faults = [
        fault
        for file, keys in recipe.params.items()
        for fault in setting_faults(recipe.name, file, keys, read_yaml(folder / file))
    ]
    return Row("configuration", DIFFERS if faults else "same values", "; ".join(faults[:3]))


def _environment_row(recipe: Recipe, versions: Sequence[str]) -> Row:
    if recipe.run is None:
        return Row("environment", "unknown", "no run of these bytes is recorded here; today's is used")
    return Row("environment", DIFFERS if versions else "same versions", ", ".join(versions))


def _outputs(origins: Origins, recipe: Recipe, place: Workplace, then: Path) -> Iterator[Row]:
    for path, md5 in recipe.outputs.items():
        now = md5_of(place.project / path, place.project)
        old = None if now == md5 else _bytes_of_then(origins, recipe, path, md5, then / path)
        yield compared(path, md5, now, old, place.project / path)


def _figures(recipe: Recipe, place: Workplace) -> list[Row]:
    """Of a trial, which leaves no file: its objectives, against those recorded."""
    if recipe.trial is None or recipe.run is None:
        return []
    then, found = recipe.run.metrics, measured(place.project)
    if not found:
        return [Row("objectives", DIFFERS, "the trial was not complete this time")]
    return [
        Row(name, SAME_FIGURE if then.get(name) == value else DIFFERS, f"{then.get(name)} -> {value}")
        for name, value in found.items()
    ]


def _bytes_of_then(origins: Origins, recipe: Recipe, path: str, md5: str, target: Path) -> Path | None:
    """What was made then: in the working tree, DVC's cache, or git's history."""
    if md5_of(origins.project / path, origins.project) == md5:
        return origins.project / path
    cache = caches_of(origins.project / (recipe.folder or "."))
    if cache.has(md5):
        cache.take(md5, target)
        return target
    blob = origins.history.bytes_of(origins.in_git(path), md5)
    if blob is None:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(blob)
    return target


def _reason(recipe: Recipe, place: Workplace, versions: Sequence[str], given: Sequence[Row]) -> tuple[str, str]:
    """(verdict, detail) of the row that says why."""
    first = [f"{row.what} differs" for row in given if row.verdict == DIFFERS and row.what != "environment"]
    run = recipe.run
    if run is not None:
        device = (place.ask(recipe, "-c", _WHERE) or "").strip().removeprefix("cuda ")
        then = {**run.environment, **{key: run.tags[key] for key in ("device", "threads") if key in run.tags}}
        now = {"processor": processor(), "python": ".".join(map(str, sys.version_info[:3]))}
        first += reasons(then, {**now, **({"device": device} if device else {})}, versions)
    return ("known", "; ".join(first)) if first else ("unknown", "code, inputs, versions and processor are the same")


@contextmanager
def _recorded(origins: Origins, recipe: Recipe, config: Mapping[str, Any] | None) -> Iterator[Recorder]:
    """The rebuilding's own run, which names what it rebuilds."""
    run = recipe.run
    with Recorder.open(
        root=origins.project,
        command="rebuild",
        name=f"rebuild {recipe.name}",
        experiment=recipe.experiment,
        config=dict(run.config) if run else {},
        changes={},
        argv=sys.argv,
        enabled=bool((config or {}).get("runtime.tracking", True)),
    ) as recorder:
        recorder.tag("rebuilds", run.id if run else recipe.title)
        recorder.tag("rebuilt.code", recipe.code)
        yield recorder


def _tell(recorder: Recorder, recipe: Recipe, rows: Sequence[Row], verdict: str, scratch: Path) -> None:
    recorder.tag("rebuilt", verdict)
    file = scratch / "comparison.json"
    what = {"rebuilds": recipe.title, "code": recipe.code, "command": recipe.command, "verdict": verdict}
    write_json(file, {**what, "rows": [row.plain() for row in rows]})
    recorder.artifact(file, folder="rebuild")


def _dry(origins: Origins, recipe: Recipe, scratch: Path) -> int:
    """What it would need and cost."""
    supply = Supply(origins, scratch, sys.executable, fetches=False)
    with supply.opened(recipe):
        say("the commit is here" + (", the patch applies" if recipe.patch else ""))
    run = recipe.run
    if run is not None:
        versions = differing_versions(run.requirements)
        say(f"versions that differ from the run's: {', '.join(versions) or 'none'}")
        say(f"the command took {run.seconds:.0f} s then" if run.seconds else "how long the command took is not known")
    _show_steps(supply.plan(recipe).steps, "")
    say(f"compared with {', '.join(recipe.outputs)}")
    return 0


def _show_steps(steps: Sequence[Step], indent: str) -> None:
    for step in steps:
        say(f"{indent}input {step.path} ({step.md5}): {step.source}")
        _show_steps(step.steps, f"{indent}  ")

"""`attndistill rebuild`: make a figure again from its commit, patch, command and inputs, and hold it against what was.

Inputs are taken by their md5 from DVC's cache, from the working tree where it still holds those bytes, or from a
remote; where they are nowhere, the stages that make them run first, in the same place. Nothing outside a temporary
folder is written, but for the record of the rebuilding and git's list of worktrees, which ends as it began.
"""

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attndistill.config.layers import flat, read_yaml
from attndistill.core.artifacts import write_json, write_text
from attndistill.core.progress import say
from attndistill.core.words import shown
from attndistill.experiments import open_experiment
from attndistill.reproduction.cache import Cache, caches_of, fetched, has_remote
from attndistill.reproduction.comparison import DIFFERS, SAME_BYTES, SAME_FIGURE, Row, compared, reasons, table
from attndistill.reproduction.recipe import Kitchen, Recipe
from attndistill.reproduction.trials import measured, narrowed
from attndistill.reproduction.verification import setting_faults
from attndistill.reproduction.workplace import (
    Workplace,
    differing_versions,
    fresh_environment,
    scratch_folder,
    workplace,
)
from attndistill.stages import STAGES, Item
from attndistill.stages.layout import project_folder
from attndistill.tracking import Recorder
from attndistill.tracking.inputs import md5_of
from attndistill.tracking.lineage import processor

_QUIET = ("--runtime.tracking=false",)  # the rebuilding has one run, which holds the comparison
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
    kitchen = Kitchen(project_folder(Path.cwd()))
    recipe = kitchen.find(reference)
    say(f"{recipe.title}: `{recipe.command}` at {recipe.code}")
    for note in recipe.notes:
        say(f"note: {note}")
    try:
        with scratch_folder() as scratch:
            return _dry(kitchen, recipe, scratch) if dry_run else _rebuilt(kitchen, recipe, scratch, environment, begun)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"the disk of temporary folders is full ({error.filename}): set TMPDIR to another") from None


def _rebuilt(kitchen: Kitchen, recipe: Recipe, scratch: Path, environment: str, begun: float) -> int:
    python = fresh_environment(recipe, scratch / "environment") if environment == "same" else sys.executable
    pantry = Pantry(kitchen, scratch, python)
    with ExitStack() as stack:
        place = stack.enter_context(pantry.opened(recipe))
        config = _config(place, recipe)
        with _recorded(kitchen, recipe, config) as recorder:
            plan = pantry.plan(recipe)
            say(f"inputs: {plan.summary()}")
            made = pantry.lay_out(plan, place)
            if recipe.trial is not None:
                recipe = narrowed(recipe, place.folder_of(recipe), scratch)
            for path in recipe.outputs:  # of results that git keeps, the tree has those of then
                _remove(place.project / path)
            made += _link_outside(kitchen, recipe, place)
            pantry.run(place, recipe)
            then = recipe.run.requirements if recipe.run and environment == "current" else ()
            versions = differing_versions(then)
            given = [_environment_row(recipe, versions), _configuration_row(recipe, config, place), *made]
            results = [*_figures(recipe, place), *_outputs(kitchen, recipe, place, scratch / "then")]
            same = not any(row.verdict == DIFFERS for row in results)
            why = [] if same else [Row("reason", *_reason(recipe, place, versions, given))]
            rows = [*given, *results, *why]
            print(table(rows))
            beside = time.monotonic() - begun - pantry.seconds
            verdict = "same" if same else "differs"
            say(f"{verdict}: {recipe.title}; stages took {pantry.seconds:.0f} s, everything else {beside:.0f} s")
            _tell(recorder, recipe, rows, verdict, scratch)
    return int(not same)


@dataclass(frozen=True)
class Step:
    """How one input comes into the workplace.

    Attributes:
        path, md5: of the input.
        source: "cache", "working tree", "remote", or by what it is made again.
        recipe: what makes it again, if so.
        steps: how that one's inputs come.
    """

    path: str
    md5: str
    source: str
    recipe: Recipe | None = None
    steps: Sequence["Step"] = ()


@dataclass(frozen=True)
class Plan:
    """The inputs of a recipe."""

    recipe: Recipe
    steps: Sequence[Step]

    def summary(self) -> str:
        return ", ".join(f"{step.path} ({step.source})" for step in self.steps) or "none"


@dataclass
class Pantry:
    """Where inputs are taken from, and the places in which what is missing is made."""

    kitchen: Kitchen
    scratch: Path
    python: str
    fetches: bool = True
    seconds: float = 0.0  # that stages took
    _done: dict[str, Path] = field(default_factory=dict)
    _fetched: dict[str, Cache] = field(default_factory=dict)
    _caches: dict[Path, Cache] = field(default_factory=dict)

    @contextmanager
    def opened(self, recipe: Recipe) -> Iterator[Workplace]:
        """A place of the recipe's own code."""
        number = sum(1 for _ in self.scratch.glob("place-*"))
        folder = self.scratch / f"place-{number}"
        folder.mkdir()
        with workplace(self.kitchen, recipe, folder, self.python) as place:
            yield place

    def plan(self, recipe: Recipe, above: Sequence[str] = ()) -> Plan:
        """How each input is got. Raises ValueError for one that is nowhere and that nobody knows how to make."""
        return Plan(recipe, [self._step(recipe, path, md5, above) for path, md5 in recipe.inputs.items()])

    def _step(self, recipe: Recipe, path: str, md5: str, above: Sequence[str]) -> Step:
        project = self.kitchen.project
        cache = self._cache(recipe)
        fault = cache.fault(md5)
        if fault:
            say(f"note: {path} is not taken from the cache: {fault}")
        if cache.has(md5):
            return Step(path, md5, "cache")
        if md5_of(project / path, project) == md5:
            return Step(path, md5, "working tree")
        folder = self._folder(recipe)
        if self.fetches and (remote := fetched([md5], folder, self.scratch)) and remote.has(md5):
            self._fetched[md5] = remote
            return Step(path, md5, "remote")
        maker = self.kitchen.maker(recipe, path) if path not in above else None
        first = "a remote if one has it, else " if not self.fetches and has_remote(folder) else ""
        if maker is not None:
            inner = self.plan(maker, (*above, path))
            return Step(path, md5, f"{first}made again by `{maker.command}`", maker, inner.steps)
        if first:
            return Step(path, md5, "a remote if one has it, else nowhere")
        raise ValueError(
            f"input {path} ({md5}) is whole in no cache, not in the working tree and in no remote, and no lock or run "
            "says what made it: bring its bytes back, or rebuild what it was made from"
        )

    def _folder(self, recipe: Recipe) -> Path:
        """The experiment's folder today, whose DVC configuration counts; the project's where it is gone."""
        folder = self.kitchen.project / (recipe.folder or ".")
        return folder if folder.is_dir() else self.kitchen.project

    def _cache(self, recipe: Recipe) -> Cache:
        folder = self._folder(recipe)
        if folder not in self._caches:
            self._caches[folder] = caches_of(folder)
        return self._caches[folder]

    def lay_out(self, plan: Plan, place: Workplace) -> list[Row]:
        """Put every input where the command reads it; gives a row for each."""
        rows = []
        for step in plan.steps:
            target = place.project / step.path
            if step.recipe is None:
                self._take(plan.recipe, step, target)
            else:
                self._make(step, target, place, plan.recipe)
            found = md5_of(target, place.project)
            same = found == step.md5
            detail = f"{found} ({step.source})" if same else f"md5 {step.md5} -> {found}, {step.source}"
            rows.append(Row(step.path, SAME_BYTES if same else DIFFERS, detail))
        return rows

    def _take(self, recipe: Recipe, step: Step, target: Path) -> None:
        _remove(target)
        if step.source == "working tree":
            source = self.kitchen.project / step.path
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
            return
        cache = self._cache(recipe) if step.source == "cache" else self._fetched[step.md5]
        cache.take(step.md5, target)

    def _make(self, step: Step, target: Path, place: Workplace, asker: Recipe) -> None:
        """Run what makes an input: in the same place where the code is the same, else in one of its own."""
        maker = step.recipe
        assert maker is not None
        if target.exists() and step.path in self._done:
            return
        say(f"making {step.path} again: `{maker.command}`")
        if maker.code == asker.code:
            self.lay_out(Plan(maker, step.steps), place)
            _link_outside(self.kitchen, maker, place)
            self.run(place, maker)
        else:
            with self.opened(maker) as other:
                self.lay_out(Plan(maker, step.steps), other)
                _link_outside(self.kitchen, maker, other)
                self.run(other, maker)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(other.project / step.path, target)
        self._done |= {path: place.project / path for path in maker.outputs}

    def run(self, place: Workplace, recipe: Recipe) -> None:
        """Run a recipe's command, and count how long it takes."""
        begun = time.monotonic()
        place.run(recipe, self.scratch / "log", more=_QUIET)
        self.seconds += time.monotonic() - begun


def _link_outside(kitchen: Kitchen, recipe: Recipe, place: Workplace) -> list[Row]:
    """Link what comes from outside by a relative path (images, class lists, checkpoints), as it is today.

    What it is, the stage itself holds against digests where its settings name them.
    """
    stage, words = STAGES.get(recipe.words[0]), dict(zip(recipe.words, [*recipe.words[1:], ""], strict=True))
    if stage is None:
        return []
    folder = place.folder_of(recipe)
    item = Item(words.get(f"--{stage.option}", ""), words.get("--data", ""))
    try:
        found = stage.outside(open_experiment(folder).config(item.name, {}), item)
    except ValueError:  # an older code's settings: its own stage will say what is missing
        return []
    rows = []
    for one in found:
        source = kitchen.project / os.path.relpath(folder, place.project) / one.path
        target = folder / one.path
        if Path(one.path).is_absolute() or target.exists() or not source.exists() or not _below(target, place.project):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())
        rows.append(Row(one.path, "as it is", "from outside, the working tree's of today"))
    return rows


def _below(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(folder)


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


def _outputs(kitchen: Kitchen, recipe: Recipe, place: Workplace, then: Path) -> Iterator[Row]:
    for path, md5 in recipe.outputs.items():
        now = md5_of(place.project / path, place.project)
        old = None if now == md5 else _bytes_of_then(kitchen, recipe, path, md5, then / path)
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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _bytes_of_then(kitchen: Kitchen, recipe: Recipe, path: str, md5: str, target: Path) -> Path | None:
    """What was made then: in the working tree, DVC's cache, or git's history."""
    if md5_of(kitchen.project / path, kitchen.project) == md5:
        return kitchen.project / path
    cache = caches_of(kitchen.project / (recipe.folder or "."))
    if cache.has(md5):
        cache.take(md5, target)
        return target
    blob = kitchen.history.bytes_of(kitchen.in_git(path), md5)
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
def _recorded(kitchen: Kitchen, recipe: Recipe, config: Mapping[str, Any] | None) -> Iterator[Recorder]:
    """The rebuilding's own run, which names what it rebuilds."""
    run = recipe.run
    with Recorder.open(
        root=kitchen.project,
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


def _dry(kitchen: Kitchen, recipe: Recipe, scratch: Path) -> int:
    """What it would need and cost."""
    pantry = Pantry(kitchen, scratch, sys.executable, fetches=False)
    with pantry.opened(recipe):
        say("the commit is here" + (", the patch applies" if recipe.patch else ""))
    run = recipe.run
    if run is not None:
        versions = differing_versions(run.requirements)
        say(f"versions that differ from the run's: {', '.join(versions) or 'none'}")
        say(f"the command took {run.seconds:.0f} s then" if run.seconds else "how long the command took is not known")
    _show_steps(pantry.plan(recipe).steps, "")
    say(f"compared with {', '.join(recipe.outputs)}")
    return 0


def _show_steps(steps: Sequence[Step], indent: str) -> None:
    for step in steps:
        say(f"{indent}input {step.path} ({step.md5}): {step.source}")
        _show_steps(step.steps, f"{indent}  ")

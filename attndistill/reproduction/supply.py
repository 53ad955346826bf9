"""What a command reads, brought where it runs: by its md5 from the first place that has it, else made again."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from attndistill.core.progress import say
from attndistill.experiments import open_experiment
from attndistill.reproduction.cache import Cache, caches_of, fetched, has_remote
from attndistill.reproduction.comparison import DIFFERS, SAME_BYTES, Row
from attndistill.reproduction.recipe import Origins, Recipe
from attndistill.reproduction.workplace import Workplace, workplace
from attndistill.stages import STAGES, Item
from attndistill.tracking.inputs import md5_of

_QUIET = ("--runtime.tracking=false",)  # the rebuilding has one run, which holds the comparison


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
class Supply:
    """Where inputs are taken from, and the places in which what is missing is made."""

    origins: Origins
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
        with workplace(self.origins, recipe, folder, self.python) as place:
            yield place

    def plan(self, recipe: Recipe, above: Sequence[str] = ()) -> Plan:
        """How each input is got. Raises ValueError for one that is nowhere and that nobody knows how to make."""
        return Plan(recipe, [self._step(recipe, path, md5, above) for path, md5 in recipe.inputs.items()])

    def _step(self, recipe: Recipe, path: str, md5: str, above: Sequence[str]) -> Step:
        project = self.origins.project
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
        maker = self.origins.maker(recipe, path) if path not in above else None
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
        folder = self.origins.project / (recipe.folder or ".")
        return folder if folder.is_dir() else self.origins.project

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
        remove(target)
        if step.source == "working tree":
            source = self.origins.project / step.path
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
            link_outside(self.origins, maker, place)
            self.run(place, maker)
        else:
            with self.opened(maker) as other:
                self.lay_out(Plan(maker, step.steps), other)
                link_outside(self.origins, maker, other)
                self.run(other, maker)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(other.project / step.path, target)
        self._done |= {path: place.project / path for path in maker.outputs}

    def run(self, place: Workplace, recipe: Recipe) -> None:
        """Run a recipe's command, and count how long it takes."""
        begun = time.monotonic()
        place.run(recipe, self.scratch / "log", more=_QUIET)
        self.seconds += time.monotonic() - begun


def link_outside(origins: Origins, recipe: Recipe, place: Workplace) -> list[Row]:
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
        source = origins.project / os.path.relpath(folder, place.project) / one.path
        target = folder / one.path
        if Path(one.path).is_absolute() or target.exists() or not source.exists() or not _below(target, place.project):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())
        rows.append(Row(one.path, "as it is", "from outside, the working tree's of today"))
    return rows


def _below(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(folder)


def remove(path: Path) -> None:
    """A file, a folder, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

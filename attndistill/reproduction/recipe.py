"""What it takes to make a figure again, from a recorded run or from a result file and its dvc.lock.

Paths are relative to the project's root: the folder with params.yaml, in which git's top may lie further up.
"""

import contextlib
import hashlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from attndistill.core.words import shown
from attndistill.experiments import ROWS
from attndistill.reproduction.locks import Lock, LockedStage, lock_in, read_lock
from attndistill.stages import STAGES
from attndistill.stages.code import same_code
from attndistill.tracking.git import code_state
from attndistill.tracking.history import History
from attndistill.tracking.inputs import listed_outs
from attndistill.tracking.recorded import RecordedRun, Runs


@dataclass(frozen=True)
class Recipe:
    """One command of one state of the code, with what it reads and what it made.

    Attributes:
        title: for people.
        name: stage@item.
        commit, patch: the code; the patch is what `git apply` at the commit understands.
        folder: of the experiment; None where it must be looked for by `experiment`.
        experiment: its name.
        words: what follows `attndistill`.
        inputs, outputs: path -> md5.
        run: that is made again; None of a file that no run here is known to have made.
        lock: of the experiment, as it was.
        params: settings by the lock: file -> key -> value; of a run, empty: its configuration is known whole.
        notes: what a reader should know before the figures.
        trial: of a study's trial, what was tried: key -> value as text.
    """

    title: str
    name: str
    commit: str
    patch: bytes
    folder: str | None
    experiment: str
    words: Sequence[str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    run: RecordedRun | None = None
    lock: Lock | None = None
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    trial: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for path in (*self.inputs, *self.outputs, self.folder or "."):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{self.title}: {shown(path)} lies outside of the project: it cannot be made again")

    @cached_property
    def code(self) -> str:
        """The state of the code in a few words."""
        digest = hashlib.sha256(self.patch).hexdigest()[:8]
        return f"commit {self.commit[:12]}" + (f" + patch {digest}, {len(self.patch)} bytes" if self.patch else "")

    @property
    def command(self) -> str:
        return shlex.join(["attndistill", *self.words])


class Origins:
    """Where recipes are looked up: a project with its git history and, where there is one, its tracking store."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.history = History(project)
        self._now: dict[str, tuple[dict[str, object], bytes]] = {}
        self.prefix = os.path.relpath(project.resolve(), self.history.top.resolve())

    @cached_property
    def runs(self) -> Runs:
        """Raises ValueError where there is no tracking store."""
        return Runs(self.project)

    def in_git(self, path: str) -> str:
        """A path from git's top."""
        return os.path.normpath(os.path.join(self.prefix, path))  # noqa: PTH118  # of git, not of this machine

    def find(self, reference: str) -> Recipe:
        """The recipe of a run (its id or the beginning of it) or of a result file, also REVISION:PATH.

        Raises:
            ValueError: neither, or nothing says what made it; one line.
        """
        revision, colon, path = reference.partition(":")
        if colon:
            return self.of_revision(revision, self._from_root(path))
        if Path(reference).is_file() or "/" in reference:
            return self.of_file(self._from_root(reference))
        return self.of_run(self.runs.find(reference))

    def _from_root(self, path: str) -> str:
        """A path as it was typed, here, as one from the project's root."""
        return os.path.relpath(Path(path).absolute(), self.project)

    def of_run(self, run: RecordedRun) -> Recipe:
        """Raises ValueError for a run that cannot be made again, and says why."""
        what = f"run {run.id[:8]} ({shown(run.name, 60)})"
        commit, patch = str(run.code.get("commit")), str(run.code.get("patch"))
        if ":" in commit:
            raise ValueError(f"{what} has no commit ({shown(commit)}): it cannot be made again")
        if patch.startswith("truncated"):
            raise ValueError(f"the patch of {what} is not whole ({shown(patch)}): it cannot be made again")
        key = "study.param."
        point = {name.removeprefix(key): text for name, text in run.tags.items() if name.startswith(key)}
        state = run.tags.get("study.state", run.status) if point else run.status
        if state not in ("FINISHED", "complete") or not (run.outputs or point):
            ended = f"{state}, and no output of it is known" if state == "FINISHED" else state
            raise ValueError(f"{what} ended {shown(ended)}: there is nothing to compare")
        notes = [] if patch in ("none", "whole") else [f"the patch is {patch}"]
        if not str(run.tags.get("lineage.inputs_verified", "")).startswith(("yes", "none", "partly")):
            notes.append(f"its inputs were not those of dvc.lock: {run.tags.get('lineage.inputs_verified')}")
        lock = read_lock(run.lock, f"dvc.lock of {what}") if run.lock else None
        return Recipe(
            what,
            run.name,
            commit,
            run.patch,
            run.folder,
            run.experiment,
            words_of(run),
            run.inputs,
            run.outputs,
            run,
            lock,
            notes=notes,
            trial=point or None,
        )

    def of_file(self, path: str) -> Recipe:
        """Of a result file in the working tree, as it is now: with the code as it is now, uncommitted or not."""
        place = self.project / path
        if not place.is_file():
            known = self.history.text("HEAD", self.in_git(path)) is not None
            hint = f"; HEAD:{path} does" if known else ""
            raise ValueError(f"{path} does not exist{hint}")
        md5 = hashlib.md5(place.read_bytes(), usedforsecurity=False).hexdigest()
        folder, inside = self._experiment(path, lambda name: (self.project / name).is_file())
        book = self.project / folder / "dvc.lock"
        lock = lock_in(book) if book.is_file() else Lock({})
        stage = lock.maker(inside)
        if stage is not None and stage.outs.get(inside) == md5:
            name = self._name_of(folder)
            state, patch = self._code_now(folder)
            commit = str(state["commit"])
            if ":" not in commit:
                changed = self._other_code(folder, lock, stage, lambda name: _read(self.project / name))
                if not changed:
                    return self._locked(path, folder, lock, stage, commit, patch, name)
        return self._older(path, folder, inside, md5)

    def _code_now(self, folder: str) -> tuple[dict[str, object], bytes]:
        """The working tree's code as it is; read once."""
        if folder not in self._now:
            outs = [*listed_outs(self.project, Path(folder).name), os.path.join(folder, "dvc.lock")]  # noqa: PTH118
            self._now[folder] = code_state(self.project, results=outs)
        return self._now[folder]

    def of_revision(self, revision: str, path: str) -> Recipe:
        """Of a result file as a revision has it."""
        commit = self.history.commit(revision)
        if commit is None:
            raise ValueError(f"no commit {shown(revision)!r} in {self.history.top}")
        blob = self.history.text(commit, self.in_git(path))
        if blob is None:
            raise ValueError(f"commit {commit[:12]} has no {path}")
        md5 = hashlib.md5(blob, usedforsecurity=False).hexdigest()
        folder, inside = self._experiment(
            path, lambda name: self.history.text(commit, self.in_git(name)) is not None, f"commit {commit[:12]}"
        )
        found = self._in_commit(path, folder, inside, md5, commit)
        return found or self._older(path, folder, inside, md5)

    def _experiment(self, path: str, exists: Any, where: str = "the working tree") -> tuple[str, str]:
        """(folder, the path in it) of the experiment that a file belongs to."""
        for parent in PurePosixPath(path).parents:
            if exists((parent / ROWS).as_posix()):
                return parent.as_posix(), PurePosixPath(path).relative_to(parent).as_posix()
        raise ValueError(f"{path} belongs to no experiment of {where}: no {ROWS} in a folder above it")

    def _in_commit(self, path: str, folder: str, inside: str, md5: str, commit: str) -> Recipe | None:
        """The recipe by a commit's own lock, where that names these bytes and the commit's code is the lock's."""
        text = self.history.text(commit, self.in_git(f"{folder}/dvc.lock"))
        lock = read_lock(text.decode(), f"dvc.lock of {commit[:12]}") if text else Lock({})
        stage = lock.maker(inside)
        if stage is None or stage.outs.get(inside) != md5:
            return None
        if self._other_code(folder, lock, stage, lambda name: self.history.text(commit, self.in_git(name))):
            return None
        rows = (self.history.text(commit, self.in_git(f"{folder}/{ROWS}")) or b"").decode()
        named = re.search(r"^name: *([\w.-]+) *$", rows, re.MULTILINE)
        name = named[1] if named else Path(folder).name or self.project.name
        return self._locked(path, folder, lock, stage, commit, b"", name)

    def _older(self, path: str, folder: str, inside: str, md5: str) -> Recipe:
        """Of bytes that the lock at hand does not explain: the commit that first named them, else a recorded run."""
        for commit in self.history.commits_naming(md5, self.in_git(f"{folder}/dvc.lock")):
            found = self._in_commit(path, folder, inside, md5, commit)
            if found is not None:
                return found
        try:
            run = self.runs.that_made(path, md5)
        except ValueError:
            run = None
        if run is None:
            raise ValueError(
                f"{path} ({md5}): no dvc.lock of this history names these bytes beside the code that made them, and no "
                "recorded run made them: it cannot be made again"
            )
        return self.of_run(run)

    def _other_code(self, folder: str, lock: Lock, stage: LockedStage, read: Any) -> list[str]:
        """The source files that are other code than the lock names."""
        changed = []
        for path, md5 in lock.sources(stage).items():
            name = os.path.normpath(os.path.join(folder, path))  # noqa: PTH118
            blob = read(name) if path.endswith(".py") else None
            if not path.endswith(".py") or (blob and hashlib.md5(blob, usedforsecurity=False).hexdigest() == md5):
                continue
            then = self.history.bytes_of(self.in_git(name), md5)
            if blob is None or then is None or not same_code(then.decode(), blob.decode()):
                changed.append(path)
        return changed

    def _locked(
        self, path: str, folder: str, lock: Lock, stage: LockedStage, commit: str, patch: bytes, name: str
    ) -> Recipe:
        outputs = _below(folder, stage.outs)
        recipe = Recipe(
            f"{path} ({outputs[path][:8]})",
            stage.name,
            commit,
            patch,
            folder,
            name,
            words_of_lock(stage.command),
            _below(folder, lock.inputs(stage)),
            outputs,
            lock=lock,
            params=stage.params,
        )
        return self.with_run(recipe, path, outputs[path])

    def _name_of(self, folder: str) -> str:
        from attndistill.experiments import open_experiment

        return open_experiment(self.project / folder).name

    def with_run(self, recipe: Recipe, path: str, md5: str) -> Recipe:
        """The same with the run that made those bytes, where one is recorded here."""
        run = None
        with contextlib.suppress(ValueError):  # a clone without a tracking store: the lock says enough
            run = self.runs.that_made(path, md5)
        return replace(recipe, run=run)

    def maker(self, recipe: Recipe, path: str) -> Recipe | None:
        """What makes an input of a recipe: by its lock, with the same code; else by the run that made it."""
        folder = recipe.folder
        if recipe.lock is not None and folder is not None:
            stage = recipe.lock.maker(os.path.relpath(path, folder))
            if stage is not None:
                return Recipe(
                    path,
                    stage.name,
                    recipe.commit,
                    recipe.patch,
                    folder,
                    recipe.experiment,
                    words_of_lock(stage.command),
                    _below(folder, recipe.lock.inputs(stage)),
                    _below(folder, stage.outs),
                    lock=recipe.lock,
                )
        producer = recipe.run.producers.get(path) if recipe.run else None
        return self.of_run(self.runs.find(producer)) if producer else None


def _below(folder: str, paths: Mapping[str, str]) -> dict[str, str]:
    return {os.path.normpath(os.path.join(folder, path)): md5 for path, md5 in paths.items()}  # noqa: PTH118


def _read(place: Path) -> bytes | None:
    return place.read_bytes() if place.is_file() else None


def words_of(run: RecordedRun) -> list[str]:
    """What follows `attndistill`, without the experiment's folder: the command runs in it.

    A stage that `attndistill pipeline` ran has the pipeline's command line; its own is in its name.
    """
    given = list(run.argv[1:])
    words, skip = [], False
    if given[:1] == ["study"]:
        return given  # it runs where it was typed
    for word in given:
        if not skip and not word.startswith("--experiment=") and word != "--experiment":
            words.append(word)
        skip = word == "--experiment" and not skip
    stage, _, item = run.name.partition("@")
    if words[:1] == [stage] or stage not in STAGES:
        return words
    name, _, data = item.partition("@")
    own = [stage, *([f"--{STAGES[stage].option}", name] if STAGES[stage].option else [])]
    return [*own, *(["--data", data] if data else []), *words[1:]]


def words_of_lock(command: str) -> list[str]:
    """Of "PYTHONPATH=../.. python -m attndistill probe --model x", what follows `attndistill`; no shell reads it."""
    words = shlex.split(command)
    for index, word in enumerate(words):
        if word == "attndistill" and words[index - 1] == "-m":
            return words[index + 1 :]
    raise ValueError(f"dvc.lock has the command {shown(command)!r}; allowed: python -m attndistill ...")

"""A working tree of an older state of the code, in a temporary folder: nothing of the user's is touched.

`git worktree` shares the repository's objects and nothing else: index, branches and files stay as they are; while it
exists, git knows of it, and it is unlisted at the end. Hooks are off: one of DVC's would check out data.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from attndistill.core.words import shown
from attndistill.experiments import ROWS
from attndistill.reproduction.recipe import Origins, Recipe
from attndistill.tracking.history import plain_environment
from attndistill.tracking.lineage import SUMS

_OURS = "attndistill"


@dataclass(frozen=True)
class Workplace:
    """One state of the code, in which commands are run.

    Attributes:
        project: its root.
        python: the interpreter.
    """

    project: Path
    python: str

    def folder_of(self, recipe: Recipe) -> Path:
        """The experiment's folder. Raises ValueError where there is none of that name."""
        if recipe.folder is not None:
            place = self.project / recipe.folder
            if place.is_dir():
                return place
        candidates = [self.project, *sorted((self.project / "experiments").glob("*"))]
        for place in candidates:
            if (place / ROWS).is_file() and _named(place, top=place == self.project) == recipe.experiment:
                return place
        raise ValueError(f"{recipe.code} has no experiment {shown(recipe.experiment)}")

    def run(self, recipe: Recipe, log: Path, *, more: Sequence[str] = ()) -> None:
        """Run a recipe's command. Raises ValueError with its last line where it does not end well."""
        words = [self.python, "-m", "attndistill", *recipe.words, *more]
        with log.open("ab") as output:
            done = subprocess.run(
                words,
                cwd=self.folder_of(recipe),
                env=self._environment(recipe.run.variables if recipe.run else {}),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        if done.returncode:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise ValueError(f"`{recipe.command}` ended with {done.returncode}: {shown(lines[-1], 500)}")

    def ask(self, recipe: Recipe, *words: str) -> str | None:
        """What one of its commands prints; None where it ends badly."""
        done = subprocess.run(
            [self.python, *words],
            cwd=self.folder_of(recipe),
            env=self._environment({}),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else None

    def _environment(self, recorded: Mapping[str, str]) -> dict[str, str]:
        """This process's, without what redirects, with the run's own variables that order sums."""
        own = {key: str(recorded[key]) for key in SUMS if key in recorded}
        place = {"PATH": f"{Path(self.python).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        return {**plain_environment(), **place, **own, "PYTHONPATH": str(self.project)}


def _named(place: Path, *, top: bool) -> str:
    from attndistill.core.plain_yaml import read_yaml

    try:
        return str(read_yaml(place / ROWS).get("name") or place.name)
    except ValueError:
        return place.name


@contextmanager
def workplace(origins: Origins, recipe: Recipe, scratch: Path, python: str) -> Iterator[Workplace]:
    """The code of a recipe, checked out below `scratch`; removed at the end.

    Raises:
        ValueError: the commit is gone, or the patch does not apply to it.
    """
    history, tree = origins.history, scratch / "tree"
    commit = history.commit(recipe.commit)
    if commit is None:
        raise ValueError(
            f"commit {recipe.commit[:12]} of {recipe.title} is gone from {history.top}: `git fetch` it from where "
            "it was pushed, or from another clone"
        )
    tree.parent.mkdir(parents=True, exist_ok=True)
    try:
        _git(history.top, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        if recipe.patch:
            patch = scratch / "patch.diff"
            patch.write_bytes(recipe.patch)
            done = _git(tree, "apply", "--whitespace=nowarn", str(patch), check=False)
            if done.returncode:
                reason = shown(done.stderr.decode(errors="replace").strip().splitlines()[0])
                raise ValueError(f"the patch of {recipe.title} does not apply to commit {commit[:12]}: {reason}")
        yield Workplace(tree / origins.prefix, python)
    finally:
        _git(history.top, "worktree", "remove", "--force", str(tree), check=False)
        shutil.rmtree(tree, ignore_errors=True)
        _git(history.top, "worktree", "prune", check=False)


def _git(place: Path, *words: str, check: bool = True) -> "subprocess.CompletedProcess[bytes]":
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-c", "core.autocrlf=false", *words]
    done = subprocess.run(
        command, cwd=place, env={**plain_environment(), "LC_ALL": "C"}, capture_output=True, check=False
    )
    if check and done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ValueError(f"git {' '.join(words[:2])} ended with {done.returncode}: {shown(lines[-1], 500)}")
    return done


def differing_versions(requirements: Sequence[str]) -> list[str]:
    """`name then -> now` of every distribution that is another one today."""
    now = {(one.metadata["Name"] or "?").lower(): one.version for one in importlib.metadata.distributions()}
    then = dict(line.split("==", 1) for line in requirements if "==" in line)
    names = sorted((then.keys() | now.keys()) - {_OURS})
    return [
        f"{name} {then.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in names
        if then.get(name) != now.get(name) and name in then
    ]


def fresh_environment(recipe: Recipe, folder: Path) -> str:
    """A virtual environment of the run's own requirements; gives its interpreter. uv where there is one, else pip.

    Raises:
        ValueError: no requirements are recorded, another Python is needed and cannot be had, or they do not install.
    """
    run = recipe.run
    wanted = [line for line in run.requirements if not line.startswith(f"{_OURS}==")] if run else []
    if run is None or not wanted:
        raise ValueError(f"{recipe.title}: no requirements are recorded; --environment current takes today's")
    folder.mkdir(parents=True)
    listed, python = folder / "requirements.txt", folder / "venv" / "bin" / "python"
    listed.write_text("".join(f"{line}\n" for line in wanted), encoding="utf-8")
    version = str(run.environment.get("python", ""))
    if uv := shutil.which("uv"):
        _install(folder, uv, "venv", "--quiet", "--python", version or sys.executable, str(python.parents[1]))
        _install(folder, uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", str(listed))
    else:
        if version.split(".")[:2] != platform.python_version().split(".")[:2]:
            raise ValueError(f"the run had Python {version}, and this is {platform.python_version()}: install uv")
        _install(folder, sys.executable, "-m", "venv", str(python.parents[1]))
        _install(folder, str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(listed))
    return str(python)


def _install(scratch: Path, *words: str) -> None:
    environment = {**plain_environment(), "TMPDIR": str(scratch)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        said = " ".join(lines[next((place for place, line in enumerate(lines) if "error" in line.lower()), -1) :])
        what = " ".join(word for word in map(str, (Path(words[0]).name, *words[1:4])) if not word.startswith("-"))
        raise ValueError(f"the run's environment cannot be made (`{what}`): {shown(said, 500)}")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, outside of the user's tree."""
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="attndistill-rebuild-")).resolve()
    try:
        yield place
    finally:
        with suppress(OSError):
            shutil.rmtree(place)

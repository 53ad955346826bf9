"""A dvc.lock: of each stage its command, code, settings, inputs and outputs by md5."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from attndistill.core.plain_yaml import BY_DVC, plain_yaml
from attndistill.core.reading import read_text
from attndistill.core.words import shown
from attndistill.stages.code import CODE


@dataclass(frozen=True)
class LockedStage:
    """One stage as a lock names it; paths are relative to the lock's folder.

    Attributes:
        name: DVC's, such as distill@attndistill.
        command: as DVC runs it, in that folder.
        deps: path -> md5, of code and of inputs.
        params: file -> dotted key -> value.
        outs: path -> md5.
    """

    name: str
    command: str
    deps: Mapping[str, str]
    params: Mapping[str, Mapping[str, Any]]
    outs: Mapping[str, str]


@dataclass(frozen=True)
class Lock:
    """A whole lock: its stages by name."""

    stages: Mapping[str, LockedStage]

    @cached_property
    def _makers(self) -> dict[str, LockedStage]:
        return {out: stage for stage in self.stages.values() for out in stage.outs}

    def maker(self, path: str) -> LockedStage | None:
        """The stage that makes a file or folder, or the folder that holds it."""
        places = [path, *map(str, PurePosixPath(path).parents)]
        return next((self._makers[place] for place in places if place in self._makers), None)

    def code(self, stage: LockedStage) -> dict[str, str]:
        """The dependencies that no stage makes (path -> md5): files from outside; of the stage `code`, source files."""
        return {path: md5 for path, md5 in stage.deps.items() if self.maker(path) is None}

    def sources(self, stage: LockedStage) -> dict[str, str]:
        """The source files and files from outside as they were when a stage was found up to date, or run."""
        code = self.stages.get(CODE)  # older locks have each stage's files with the stage
        return {**(self.code(code) if code else {}), **self.code(stage)}

    def inputs(self, stage: LockedStage) -> dict[str, str]:
        """The dependencies that another stage makes; of a folder in which several put theirs, what they put there.

        Of such a folder below results/, git has what was there.
        """
        found = {path: md5 for path, md5 in stage.deps.items() if self.maker(path) is not None}
        shared = [f"{path}/" for path in stage.deps if path not in found and not path.startswith("results/")]
        made = ((out, md5) for maker in self.stages.values() for out, md5 in maker.outs.items())
        return found | {out: md5 for out, md5 in made if out.startswith(tuple(shared))}


def lock_in(path: Path) -> Lock:
    """The lock in a file. Raises ValueError for one that is none."""
    return read_lock(read_text(path, at_most=BY_DVC.size), str(path))


def read_lock(text: str, place: str) -> Lock:
    """A lock's text. Raises ValueError for one that is none; `place` says whose it is."""
    found = plain_yaml(text, place, BY_DVC)
    try:
        stages = (found or {}).get("stages") or {}
        return Lock({str(name): _stage(str(name), entry) for name, entry in stages.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{shown(place)} is no lock of DVC: {shown(error)}") from None


def _stage(name: str, entry: Mapping[str, Any]) -> LockedStage:
    deps, outs = ({str(one["path"]): str(one.get("md5")) for one in entry.get(key) or []} for key in ("deps", "outs"))
    params = {str(file): dict(keys or {}) for file, keys in (entry.get("params") or {}).items()}
    return LockedStage(name, str(entry["cmd"]), deps, params, outs)

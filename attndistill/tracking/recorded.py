"""Recorded runs, read back from MLflow: what led to one, what it made, which runs made its inputs."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from attndistill.core.reading import read_bounded, read_model, read_text
from attndistill.core.secrets import hidden
from attndistill.core.words import shown
from attndistill.tracking.address import sqlite_file, tracking_uri
from attndistill.tracking.store import PARENT, Store, allowed_key

_ID = re.compile(r"[0-9a-f]{4,32}")
_INPUT, _OUTPUT, _PRODUCER = "lineage.input.", "output.", "input_run."


@dataclass(frozen=True)
class RecordedRun:
    """One run with its lineage. Paths are relative to the project's root.

    Attributes:
        id, name, experiment, status: MLflow's.
        seconds: that it took; None of one that has not ended.
        tags, metrics: as they are in MLflow, of a curve its last point.
        code: commit, dirty, patch ("none", "whole", or what is missing), left_out.
        patch: what `git apply` understands.
        folder: in which the command ran; None of one recorded before that was.
        argv: the command line.
        variables: of the environment.
        config: resolved.
        environment: interpreter, platform, processor.
        requirements: `name==version`, every installed distribution.
        lock: the text of the dvc.lock that lists what it reads or makes; empty where there was none.
    """

    id: str
    name: str
    experiment: str
    status: str
    seconds: float | None
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    code: Mapping[str, Any]
    patch: bytes
    folder: str | None
    argv: tuple[str, ...]
    variables: Mapping[str, str]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    requirements: tuple[str, ...]
    lock: str

    @property
    def inputs(self) -> dict[str, str]:
        """Path -> md5."""
        return {key.removeprefix(_INPUT): value for key, value in self.tags.items() if key.startswith(_INPUT)}

    @property
    def outputs(self) -> dict[str, str]:
        """Path -> md5."""
        return {key.removeprefix(_OUTPUT): value for key, value in self.tags.items() if key.startswith(_OUTPUT)}

    @property
    def producers(self) -> dict[str, str]:
        """Path of an input -> id of the run that made it."""
        return {key.removeprefix(_PRODUCER): value for key, value in self.tags.items() if key.startswith(_PRODUCER)}

    @property
    def accounts(self) -> dict[str, str]:
        """Digests that files state of data and teacher: "path:key" -> digest."""
        key = "lineage.account."
        return {name.removeprefix(key): value for name, value in self.tags.items() if name.startswith(key)}


class Runs:
    """The recorded runs of a project. Raises ValueError where there is no tracking store."""

    def __init__(self, project: Path) -> None:
        self.uri = tracking_uri(project)
        database = sqlite_file(self.uri)
        if database is not None and not database.is_file():
            raise ValueError(f"no run is recorded here: {database} does not exist (another: MLFLOW_TRACKING_URI)")
        self._store = Store(self.uri)
        self._client = self._store.client

    def find(self, word: str) -> RecordedRun:
        """The run whose id is, or alone begins with, a word.

        Raises:
            ValueError: no such run, several, or one that was recorded without lineage.
        """
        if not _ID.fullmatch(word):
            raise ValueError(f"{shown(word)!r} is no run id; allowed: 4 to 32 digits of 0-9 and a-f")
        found = self._search(f"attributes.run_id LIKE '{word}%'", 5)
        if not found:
            raise ValueError(f"no run of {hidden(self.uri)} begins with {word}")
        if len(found) > 1:
            names = ", ".join(f"{run.info.run_id} ({shown(run.info.run_name, 60)})" for run in found)
            raise ValueError(f"several runs begin with {word}: {names}")
        return self._read(found[0])

    def that_made(self, path: str, md5: str) -> RecordedRun | None:
        """The latest run that made these bytes; None where none is recorded."""
        key = allowed_key(f"{_OUTPUT}{path}")
        found = self._search(f"tags.`{key}` = '{md5}'", 1)
        return self._read(found[0]) if found else None

    def _search(self, asked: str, most: int) -> list[Any]:
        experiments = [one.experiment_id for one in self._client.search_experiments(max_results=1000)]
        order = ["attributes.start_time DESC"]
        return list(self._client.search_runs(experiments, asked, max_results=most, order_by=order))

    def _children(self, run: Any) -> str:
        found = self._client.search_runs(
            [run.info.experiment_id], f"tags.`{PARENT}` = '{run.info.run_id}'", max_results=20
        )
        return ", ".join(f"{child.info.run_name} {child.info.run_id[:8]}" for child in found)

    def _read(self, run: Any) -> RecordedRun:
        what = f"run {run.info.run_id[:8]} ({shown(run.info.run_name, 60)})"
        if run.data.tags.get("stage") in ("dvc", "pipeline") and (children := self._children(run)):
            raise ValueError(f"{what} only holds others together; name one of them: {children}")
        with tempfile.TemporaryDirectory(prefix="attndistill-lineage-") as scratch:
            folder = self._download(run, Path(scratch))
            ended = run.info.end_time
            return RecordedRun(
                id=run.info.run_id,
                name=str(run.info.run_name),
                experiment=str(self._client.get_experiment(run.info.experiment_id).name),
                status=str(run.info.status),
                seconds=(ended - run.info.start_time) / 1000 if ended else None,
                tags=self._tags(run),
                metrics=dict(run.data.metrics),
                **lineage_in(folder, what),
            )

    def _tags(self, run: Any) -> dict[str, str]:
        """A run's own; a trial that ended before its study's inputs were read has those of the study's run."""
        tags = dict(run.data.tags)
        if "study.trial" in tags and PARENT in tags and not any(key.startswith(_INPUT) for key in tags):
            of_study = self._client.get_run(tags[PARENT]).data.tags
            tags |= {key: value for key, value in of_study.items() if key.startswith((_INPUT, _PRODUCER))}
        return tags

    def _download(self, run: Any, scratch: Path) -> Path:
        from mlflow.exceptions import MlflowException

        try:
            names = {item.path for item in self._client.list_artifacts(run.info.run_id)}
            if "lineage" in names:
                return Path(self._client.download_artifacts(run.info.run_id, "lineage", str(scratch)))
        except (MlflowException, OSError) as error:
            reason = hidden(" ".join(str(error).split()))
            raise ValueError(f"the artifacts of run {run.info.run_id[:8]} cannot be read: {shown(reason)}") from None
        return scratch


def lineage_in(folder: Path, what: str) -> dict[str, Any]:
    """What led to a run, as its recording kept it: the fields of `RecordedRun` of these names.

    Raises:
        ValueError: a file is missing, damaged, or no lineage's; `what` names the run.
    """
    for name in ("code.json", "command.json", "config.json"):
        if not (folder / name).exists():
            raise ValueError(f"{what} was recorded without lineage (no {name}): it cannot be made again")
    files = ("code", "command", "config", "environment")
    try:
        code, command, config, environment = (_kept(folder / f"{name}.json", _KINDS[name]) for name in files)
    except ValueError as error:
        raise ValueError(f"the lineage of {what} is damaged: {error}") from None
    return {
        "code": code.model_dump(),
        "patch": read_bounded(path, at_most=2**30) if (path := folder / "patch.diff").exists() else b"",
        "folder": command.folder,
        "argv": tuple(command.argv),
        "variables": command.environment,
        "config": config.model_dump(),
        "environment": environment.model_dump(),
        "requirements": tuple(_text(folder / "requirements.txt").split()),
        "lock": _text(folder / "dvc.lock"),
    }


def _kept(file: Path, kind: type[Any]) -> Any:
    return read_model(file, kind) if os.path.lexists(file) else kind()


class _Any(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Command(_Any):
    argv: list[str]
    folder: str | None = None
    environment: dict[str, str] = {}


_KINDS: Mapping[str, Any] = {"code": _Any, "command": _Command, "config": _Any, "environment": _Any}


def _text(file: Path) -> str:
    return read_text(file) if file.exists() else ""

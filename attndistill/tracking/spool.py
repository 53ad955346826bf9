"""The spool: one folder per recording, holding everything MLflow has to be told about it.

run.json        who recorded what, where and why (written once, before anything else): `Description`
journal.jsonl   what happened, a line an `Event`, appended only
lineage/        what led to the run: patch.diff, config.json, ...
files/          artifacts, kept safe from later changes of the originals
progress.json   how much of the journal MLflow has, and under which run id (replaced by the sender): `Progress`
lock            held by the process that is sending

The classes are those of writer and reader alike. A damaged line costs itself, a damaged run.json its own recording, and
a damaged progress.json nothing: sending again adds nothing twice.
"""

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError

from attndistill.core.artifacts import write_text
from attndistill.tracking.address import work_folder as work_folder
from attndistill.tracking.call import Call
from attndistill.tracking.call import process_started as process_started

_MOST, _MOST_NEW = 2**26, 2**30  # bytes of a JSON file, of a journal
COPY_AT_MOST = 16 * 2**20  # bytes; larger files are hard-linked, which is safe as long as nobody rewrites them in place


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, ser_json_inf_nan="constants")


class Description(_Record):
    """What is known of a recording when it begins (`run.json`). Addresses and words hold no secrets any more."""

    id: str
    command: str
    name: str
    experiment: str
    config: dict[str, Any]
    changes: dict[str, Any] | None = None  # what MLflow shows as params; None: the whole configuration
    seeds: list[int] = []
    argv: list[str]
    inputs: list[str]
    outputs: list[str] = []
    accounts: list[str] = []
    root: str
    folder: str = ""  # where the command ran
    own_uri: str  # of the project's own database, when it was recorded
    tracking_uri: str
    started_ms: int
    pid: int
    process_started: str
    host: str
    user: str
    launcher_run_id: str | None = None  # MLFLOW_RUN_ID, set by `mlflow run`
    enclosing: str | None = None  # the recording inside which this one was opened, in the same process
    call: Call | None = None  # of DVC
    dvc_experiment: str | None = None

    @property
    def item(self) -> str:
        """What the stage works on: of "distill@attndistill", the row."""
        return self.name.partition("@")[2]

    @property
    def tree(self) -> Path:
        """The working tree that the run reads: the root, or the copy of it in which `dvc exp run --temp` runs."""
        folder, copies = Path(self.folder or self.root), Path(self.root, ".dvc", "tmp", "exps").resolve()
        inside = [place for place in (folder, *folder.parents) if copies in place.parents]
        return next((place for place in inside if (place / ".git").exists()), Path(self.root))

    def recorder_is_alive(self) -> bool:
        """Whether the recording process may still write. On another machine nobody can tell, so: yes."""
        if self.host != socket.gethostname():
            return True
        return process_started(self.pid) == self.process_started


class Progress(_Record):
    """How far a recording is in MLflow (`progress.json`)."""

    offset: NonNegativeInt = 0
    run_id: str | None = None
    uri: str | None = None
    lineage: bool = False


class Metrics(_Record):
    """Points of curves at one step."""

    kind: Literal["metrics"] = "metrics"
    time: int
    step: int
    values: dict[str, float]


class Figures(_Record):
    """Figures of an item: name -> seed -> value."""

    kind: Literal["figures"] = "figures"
    time: int
    item: str
    values: dict[str, dict[int, float]]


class Dataset(_Record):
    """A data set that the run used."""

    kind: Literal["dataset"] = "dataset"
    time: int
    name: str
    digest: str
    context: str
    source: str
    profile: dict[str, Any]


class Artifact(_Record):
    """A file or directory in the spool, for the run's `folder`."""

    kind: Literal["artifact"] = "artifact"
    time: int
    path: str
    folder: str


class Tag(_Record):
    """A tag of the run."""

    kind: Literal["tag"] = "tag"
    time: int
    key: str
    value: str


class Close(_Record):
    """The end of the run."""

    kind: Literal["close"] = "close"
    time: int
    status: Literal["FINISHED", "FAILED", "KILLED"]
    error: str


Event = Annotated[Metrics | Figures | Dataset | Artifact | Tag | Close, Field(discriminator="kind")]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


@dataclass(frozen=True)
class Delivered:
    """How it went with one recording: `sent` is None where it is still being recorded."""

    name: str
    spool: Path
    sent: bool | None
    message: str

    def __str__(self) -> str:
        word = {True: "sent", False: "NOT sent", None: "skipped"}[self.sent]
        return f"{word}: {self.name} ({self.message})"


class Spool:
    """One recording's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.jsonl"
        self.lineage = folder / "lineage"
        self.files = folder / "files"
        self.progress = folder / "progress.json"
        self.lock = folder / "lock"

    def describe(self, description: Description) -> None:
        """Begin the spool: whole, or not there. For the owner alone: configurations may be private."""
        beside = self.folder.with_name(f".new-{self.folder.name}")
        (beside / "lineage").mkdir(parents=True)
        beside.chmod(0o700)
        write_text(beside / "run.json", description.model_dump_json(indent=2))
        beside.rename(self.folder)

    def description(self) -> Description:
        """Who recorded what. Raises ValueError for a file that does not say so."""
        path = self.folder / "run.json"
        from attndistill.core.reading import read_bounded  # here: it imports numpy

        try:
            return Description.model_validate_json(read_bounded(path, at_most=_MOST))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path} is damaged: {place}{': ' if place else ''}{first['msg']}") from None
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None

    def exists(self) -> bool:
        return (self.folder / "run.json").exists()

    def waits(self) -> bool:
        """Whether the recording is here and can be sent."""
        try:
            return bool(self.description())
        except ValueError:
            return False

    def reached(self) -> Progress:
        """How far it is sent; where nobody knows, it is sent from the beginning."""
        from attndistill.core.reading import read_bounded  # here: it imports numpy

        try:
            found = Progress.model_validate_json(read_bounded(self.progress, at_most=_MOST))
            return found if found.offset <= self.journal.stat().st_size or not found.offset else Progress()
        except (OSError, ValueError):
            return Progress()

    def events(self, offset: int) -> list[tuple[Event | None, int]]:
        """Whole lines after byte `offset`, each with the offset behind it; None for a line that is no event.

        A last line without its end was torn by a kill, or is being written: it is not given.
        """
        if not self.journal.is_file():
            return []
        if self.journal.stat().st_size - offset > _MOST_NEW:
            raise ValueError(f"{self.journal} has {self.journal.stat().st_size} bytes; at most {_MOST_NEW} are sent")
        with self.journal.open("rb") as file:
            file.seek(offset)
            lines = file.read().split(b"\n")[:-1]
        found: list[tuple[Event | None, int]] = []
        for line in lines:
            offset += len(line) + 1
            try:
                found.append((_EVENT.validate_json(line), offset))
            except ValidationError:  # a line torn by a kill and another process's behind it, or damage
                found.append((None, offset))
        return found

    def is_closed(self) -> bool:
        return any(isinstance(event, Close) for event, _ in self.events(0))

    def keep(self, source: Path, number: int) -> Path:
        """Take `source` (a file or a directory) into the spool; gives its path relative to the spool."""
        target = self.files / str(number) / source.name
        target.parent.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_copy_or_link)
        else:
            _copy_or_link(str(source), str(target))
        return target.relative_to(self.folder)

    def remove(self) -> None:
        """Renamed first, so that a removal cut short never looks like a recording that waits."""
        beside = self.folder.with_name(f".sent-{self.folder.name}")
        self.folder.rename(beside)
        shutil.rmtree(beside, ignore_errors=True)


def spools_folder(root: Path) -> Path:
    """Where recordings of the project at `root` wait: beside the original repository inside a `dvc exp run --temp`."""
    return work_folder(root) / "tracking"


def _copy_or_link(source: str, target: str) -> str:
    real = os.path.realpath(source)
    if Path(real).stat().st_size > COPY_AT_MOST:
        try:
            os.link(real, target)
            return target
        except OSError:  # another file system, or one without links
            pass
    return str(shutil.copyfile(real, target))

"""The spool: one folder per recording, holding everything MLflow has to be told about it.

run.json        who recorded what, where and why (written once, before anything else)
journal.jsonl   what happened, a line an event, appended only
lineage/        what led to the run: patch.diff, config.json, ...
files/          artifacts, kept safe from later changes of the originals
progress.json   how much of the journal MLflow has, and under which run id (replaced atomically by the sender)
lock            held by the process that is sending
"""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attndistill.core.artifacts import read_json, write_json

COPY_AT_MOST = 16 * 2**20  # bytes; larger files are hard-linked, which is safe as long as nobody rewrites them in place


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a recording when it begins (`run.json`)."""

    id: str
    command: str
    name: str
    experiment: str
    config: Mapping[str, Any]
    argv: list[str]
    inputs: list[str]
    root: str
    tracking_uri: str
    started_ms: int
    pid: int
    process_started: str
    host: str
    user: str
    tags: dict[str, str] = field(default_factory=dict)
    launcher_run_id: str | None = None  # MLFLOW_RUN_ID, set by `mlflow run`
    enclosing: str | None = None  # the recording inside which this one was opened, in the same process

    def recorder_is_alive(self) -> bool:
        """Whether the recording process may still write. On another machine nobody can tell, so: yes."""
        if self.host != socket.gethostname():
            return True
        return process_started(self.pid) == self.process_started


@dataclass(frozen=True)
class Delivered:
    """How it went with one recording: `sent` is None where another process is still recording or sending it."""

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
        """Begin the spool. A private folder: a tracking address may hold a password."""
        self.folder.mkdir(parents=True, mode=0o700)
        self.lineage.mkdir()
        write_json(self.folder / "run.json", asdict(description))

    def description(self) -> Description:
        return Description(**read_json(self.folder / "run.json"))

    def exists(self) -> bool:
        return (self.folder / "run.json").exists()

    def events(self, offset: int) -> list[tuple[dict[str, Any], int]]:
        """Whole events after byte `offset`, each with the offset behind it; a line torn by a kill is not an event."""
        if not self.journal.exists():
            return []
        with self.journal.open("rb") as file:
            file.seek(offset)
            lines = file.read().splitlines(keepends=True)
        found = []
        for line in lines:
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            with contextlib.suppress(ValueError):  # torn, and another process's line behind it
                found.append((json.loads(line), offset))
        return found

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


def work_folder(root: Path) -> Path:
    """`.work` of $DVC_ROOT, else of $ATTNDISTILL_ROOT, else of `root`."""
    return Path(os.environ.get("DVC_ROOT") or os.environ.get("ATTNDISTILL_ROOT") or root).absolute() / ".work"


def process_started(pid: int) -> str:
    """A word that tells this process from a later one with the same number; empty where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]  # a zombie writes nothing any more
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"  # a system without /proc


def _copy_or_link(source: str, target: str) -> str:
    real = os.path.realpath(source)
    if Path(real).stat().st_size > COPY_AT_MOST:
        try:
            os.link(real, target)
            return target
        except OSError:  # another file system, or one without links
            pass
    return str(shutil.copyfile(real, target))

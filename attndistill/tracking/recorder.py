"""The recorder: what a stage says about its run, appended to a journal. Nothing here can stop or slow a training.

It imports neither torch nor mlflow. A failure to record (a full disk) is told once on stderr and then ignored: the
run's own files are the truth, and they are written elsewhere.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attndistill.tracking import lineage
from attndistill.tracking.address import tracking_uri
from attndistill.tracking.companion import Companion
from attndistill.tracking.spool import Description, Spool, process_started, spools_folder

_open_recordings: list["Recorder"] = []  # of this process, outermost first


class Recorder:
    """One recording. Use `Recorder.open`; without a spool every method does nothing."""

    def __init__(self, spool: Spool | None) -> None:
        self.spool = spool
        self._pid = os.getpid()
        self._kept = 0

    @classmethod
    @contextmanager
    def open(
        cls,
        *,
        root: Path,
        command: str,
        name: str,
        experiment: str,
        config: Mapping[str, Any],
        argv: Sequence[str],
        inputs: Sequence[Path] = (),
        enabled: bool = True,
    ) -> Iterator["Recorder"]:
        """Record a run for the length of a `with` block.

        Args:
            root: the directory with params.yaml.
            command: the stage, which is also the entry point in MLproject ("distill").
            name: the run's name ("distill@attndistill").
            experiment: the MLflow experiment; a run inside another one goes where that one is.
            config: the resolved configuration, nested; becomes params with dotted keys.
            argv: the command line (`sys.argv`): what to type to do it again.
            inputs: files and directories that the run reads, relative to `root` or absolute.
            enabled: False records nothing at all.

        The run ends FINISHED, with an exception FAILED, with KeyboardInterrupt KILLED; the exception goes on its way. A
        recording opened inside another one becomes its child.
        """
        recorder = cls(None)
        if enabled:
            with _failures_told():
                recorder = cls(_begin(root, command, name, experiment, config, argv, inputs))
        _open_recordings.append(recorder)
        status, error = "FINISHED", ""
        try:
            yield recorder
        except BaseException as problem:
            status, error = _ending(problem)
            raise
        finally:
            _open_recordings.remove(recorder)
            recorder._write(kind="close", status=status, error=error[:2000])
            if enabled:
                with _failures_told():
                    Companion.leave()

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Points of curves, at one step. Keys may hold slashes: "seed-0/loss". A forked child may tell its own."""
        self._append(kind="metrics", step=int(step), values={key: float(value) for key, value in values.items()})

    def dataset(
        self,
        *,
        name: str,
        digest: str,
        context: str,
        source: str = "",
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """A data set that the run used; MLflow keeps the first 36 characters of the digest."""
        self._write(
            kind="dataset",
            name=name,
            digest=digest,
            context=context,
            source=str(source),
            profile=dict(profile or {}),
        )

    def artifact(self, path: Path, *, folder: str = "") -> None:
        """Keep a file or a directory, as it is now, for the run's `folder`."""
        if self.spool is None or os.getpid() != self._pid:
            return
        with _failures_told():
            kept = self.spool.keep(Path(path), self._kept)
            self._kept += 1
            self._write(kind="artifact", path=str(kept), folder=folder)

    def tag(self, key: str, value: str) -> None:
        """Set one tag of the run."""
        self._write(kind="tag", key=key, value=str(value))

    def _write(self, **event: Any) -> None:
        if os.getpid() == self._pid:  # a forked worker does not speak for the run
            self._append(**event)

    def _append(self, **event: Any) -> None:
        if self.spool is None:
            return
        with _failures_told():
            line = json.dumps({"time": _now_ms(), **event}, default=str) + "\n"
            # one write for one line, appended: whole or absent for a reader, in order between threads and processes
            handle = os.open(self.spool.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)


def _begin(
    root: Path,
    command: str,
    name: str,
    experiment: str,
    config: Mapping[str, Any],
    argv: Sequence[str],
    inputs: Sequence[Path],
) -> Spool:
    identity = f"{time.time_ns():x}-{os.urandom(4).hex()}"  # sorts by age: a parent is sent before its children
    spool = Spool(spools_folder(root) / identity)
    enclosing = [recorder.spool.folder.name for recorder in _open_recordings if recorder.spool is not None]
    description = Description(
        id=identity,
        command=command,
        name=name,
        experiment=experiment,
        config=json.loads(json.dumps(config, default=str)),
        argv=[str(word) for word in argv],
        inputs=[str(path) for path in inputs],
        root=str(Path(root).absolute()),
        tracking_uri=tracking_uri(),
        started_ms=_now_ms(),
        pid=os.getpid(),
        process_started=process_started(os.getpid()),
        host=socket.gethostname(),
        user=_user(),
        launcher_run_id=os.environ.get("MLFLOW_RUN_ID") or None,
        enclosing=enclosing[-1] if enclosing else None,
    )
    spool.describe(description)
    # the code is read now, before anyone edits it; the companion reads what is slow and cannot change meanwhile
    with _failures_told():
        lineage.capture_code(Path(root), spool.lineage)
    with _failures_told():
        Companion.follow(spool.folder)
    return spool


def _ending(problem: BaseException) -> tuple[str, str]:
    if isinstance(problem, KeyboardInterrupt):
        return "KILLED", "interrupted"
    if isinstance(problem, SystemExit) and not problem.code:
        return "FINISHED", ""
    return "FAILED", f"{type(problem).__name__}: {problem}"


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _failures_told() -> Iterator[None]:
    """Recording must not stop a training: whatever goes wrong in it is one line on stderr, the first time."""
    try:
        yield
    except Exception as error:
        if not _told:
            _told.append(True)
            print(f"tracking: this run is not recorded in full ({type(error).__name__}: {error})", file=sys.stderr)


_told: list[bool] = []

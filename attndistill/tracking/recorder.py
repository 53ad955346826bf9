"""The recorder: what a stage says about its run, appended to a journal. Nothing here can stop or slow a training.

It imports neither torch nor mlflow. A failure to record (a full disk) is reported once on stderr and then ignored: the
run's own files are the truth, and they are written elsewhere.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attndistill.core.places import project_folder
from attndistill.core.secrets import hidden, hidden_in
from attndistill.tracking import lineage
from attndistill.tracking.address import own_uri, tracking_uri
from attndistill.tracking.call import call_of_dvc, process_started
from attndistill.tracking.companion import Companion, say
from attndistill.tracking.spool import (
    Artifact,
    Close,
    Dataset,
    Description,
    Event,
    Figures,
    Metrics,
    Spool,
    Tag,
    spools_folder,
)

DRIVER = "ATTNDISTILL_DRIVER"  # set for an engine's workers: the recording below which theirs belong
_open_recordings: list["Recorder"] = []  # of this process, outermost first
_told: list[bool] = []


@contextmanager
def _failures_told() -> Iterator[None]:
    """Recording must not stop a training: whatever goes wrong in it is one line on stderr, the first time."""
    try:
        yield
    except Exception as error:
        if not _told:
            _told.append(True)
            say(f"tracking: this run is not recorded in full ({type(error).__name__}: {hidden(str(error))})")


class Recorder:
    """One recording. Use `Recorder.open`; without a spool every method does nothing."""

    def __init__(self, spool: Spool | None, item: str = "") -> None:
        self.spool = spool
        self._item = item
        self._pid = os.getpid()
        self._kept = 0
        self._torn = False

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
        changes: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (),
        inputs: Sequence[Path] = (),
        outputs: Sequence[Path] = (),
        accounts: Sequence[Path] = (),
        enabled: bool = True,
    ) -> Iterator["Recorder"]:
        """Record a run for the length of a `with` block.

        Args:
            root: the directory with params.yaml.
            command: the stage, which is also the entry point in MLproject ("distill").
            name: the run's name, "stage@item" where the stage works on an item ("distill@attndistill").
            experiment: the MLflow experiment; a run inside another one goes where that one is.
            config: the resolved configuration, nested: kept as lineage/config.json.
            argv: the command line (`sys.argv`): what to type to do it again.
            changes: dotted key -> value of what overlay, row and command line change: MLflow's params. None: all.
            seeds: of the item.
            inputs: files and directories that the run reads, relative to `root` or absolute.
            outputs: files and directories that it makes: their md5 is kept when it ends well.
            accounts: JSON files in which digests of what came from elsewhere stand (a teacher's file); the
                manifest.json of an input need not be named.
            enabled: False records nothing at all.

        The run ends FINISHED, with an exception FAILED, with KeyboardInterrupt KILLED; the exception goes on its way. A
        recording opened inside another one becomes its child.
        """
        recorder = cls(None)
        if enabled:
            with _failures_told():
                paths = {"inputs": inputs, "outputs": outputs, "accounts": accounts}
                description = _described(
                    root,
                    command=command,
                    name=name,
                    experiment=experiment,
                    config=_plain(config),
                    changes=None if changes is None else _plain(changes),
                    seeds=[int(seed) for seed in seeds],
                    argv=hidden_in([str(word) for word in argv]),
                    **{kind: [str(path) for path in given] for kind, given in paths.items()},
                )
                recorder = cls(_begin(description), description.item)
        _open_recordings.append(recorder)
        status, error = "FINISHED", ""
        try:
            yield recorder
        except BaseException as problem:
            status, error = _ending(problem)
            raise
        finally:
            _open_recordings.remove(recorder)
            recorder._write(Close, status=status, error=hidden(error)[:2000])
            if enabled and not _driver():
                with _failures_told():
                    Companion.leave()

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Points of curves, at one step. Keys may hold slashes: "seed-0/loss". A forked child may tell its own."""
        with _failures_told():
            self._append(Metrics, step=int(step), values={key: float(value) for key, value in values.items()})

    def figures(self, values: Mapping[str, Mapping[int, float]], *, item: str | None = None) -> None:
        """What was measured: figure -> seed -> value, of the run's own item or (a table) of another one.

        MLflow gets `knn_top1` (mean), `knn_top1_sd` (sample deviation, of two seeds or more), `knn_top1_n` and
        `seed-0/knn_top1`; so does the run that made the model. The parent's table gets `attndistill.knn_top1`.
        """
        with _failures_told():
            plain = {name: {int(seed): float(value) for seed, value in by.items()} for name, by in values.items()}
            self._write(Figures, item=self._item if item is None else item, values=plain)

    def dataset(
        self, *, name: str, digest: str, context: str, source: str = "", profile: Mapping[str, Any] | None = None
    ) -> None:
        """A data set that the run used; MLflow keeps the first 36 characters of the digest."""
        with _failures_told():
            self._write(
                Dataset, name=name, digest=digest, context=context, source=hidden(str(source)), profile=_plain(profile)
            )

    def artifact(self, path: Path, *, folder: str = "") -> None:
        """Keep a file or a directory, as it is now, for the run's `folder`."""
        if self.spool is None or os.getpid() != self._pid:
            return
        with _failures_told():
            kept = self.spool.keep(Path(path), self._kept)
            self._kept += 1
            self._write(Artifact, path=str(kept), folder=folder)

    def tag(self, key: str, value: str) -> None:
        """Set one tag of the run."""
        with _failures_told():
            self._write(Tag, key=key, value=hidden(str(value)))

    def _write(self, kind: type[Event], **values: Any) -> None:
        if os.getpid() == self._pid:  # a forked worker does not speak for the run
            self._append(kind, **values)

    def _append(self, kind: type[Event], **values: Any) -> None:
        if self.spool is None:
            return
        with _failures_told():
            line = ("\n" if self._torn else "") + kind(time=_now_ms(), **values).model_dump_json() + "\n"
            # one write for one line, appended: whole or absent for a reader, in order between threads and processes
            handle = os.open(self.spool.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                written = os.write(handle, line.encode())
                self._torn = written < len(line.encode())  # the disk was full in the middle of it
            finally:
                os.close(handle)


def _described(root: Path, **given: Any) -> Description:
    enclosing = [recorder.spool.folder.name for recorder in _open_recordings if recorder.spool is not None]
    return Description(
        id=f"{time.time_ns():x}-{os.urandom(4).hex()}",  # sorts by age: a parent is sent before its children
        root=str(Path(root).absolute()),
        folder=str(Path.cwd()),
        own_uri=own_uri(project_folder(root)),
        tracking_uri=hidden(tracking_uri(root)),
        started_ms=_now_ms(),
        pid=os.getpid(),
        process_started=process_started(os.getpid()),
        host=socket.gethostname(),
        user=_user(),
        launcher_run_id=(not _driver() and os.environ.get("MLFLOW_RUN_ID")) or None,
        enclosing=enclosing[-1] if enclosing else _driver(),
        call=call_of_dvc(),
        dvc_experiment=os.environ.get("DVC_EXP_NAME") or None,
        **given,
    )


def _begin(description: Description) -> Spool:
    spool = Spool(spools_folder(Path(description.root)) / description.id)
    spool.describe(description)
    # the code is read now, before anyone edits it; the companion reads what is slow and cannot change meanwhile
    with _failures_told():
        lineage.capture_code(description, spool.lineage)
    with _failures_told():
        if _driver():  # it sends what its workers record; on what machine they are, they alone know
            lineage.capture_machine(spool.lineage)
        else:
            Companion.follow(spool.folder)
    return spool


def _driver() -> str | None:
    """The recording of the engine whose worker this process is; None of any other process."""
    return os.environ.get(DRIVER) or None


def _plain(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """As JSON holds it, and without secrets."""
    found: dict[str, Any] = hidden_in(json.loads(json.dumps(value or {}, default=str)))
    return found


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

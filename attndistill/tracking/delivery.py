"""Delivery: carry a spool to MLflow, exactly once. Following a run and sending it later are the same code.

`progress.json` says how far the journal is sent and under which run. It is replaced after each step, and each step may
be repeated: a point, a param, a tag, a data set or an artifact that is already there stays as it is. So a sender may be
killed anywhere.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from attndistill.core.artifacts import read_json, write_json, write_text
from attndistill.tracking import lineage
from attndistill.tracking.spool import Delivered, Description, Spool
from attndistill.tracking.store import Store


class Delivery:
    """One spool on its way to MLflow; holds the spool's lock from `begin` to `release`."""

    def __init__(self, spool: Spool, stores: Callable[[str], Store]) -> None:
        self.spool = spool
        self.description: Description = spool.description()
        self._stores = stores
        self._lock = FileLock(spool.lock)
        self._progress: dict[str, Any] = {}

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once it is known."""
        return self._progress.get("run_id")

    def begin(self) -> bool:
        """Take the spool; False where another process has it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        if not self.spool.exists():  # sent while we were looking
            self.release()
            return False
        new = {"offset": 0, "run_id": None, "uri": None, "lineage": False}
        self._progress = read_json(self.spool.progress) if self.spool.progress.exists() else new
        return True

    def release(self) -> None:
        self._lock.release()

    def capture(self) -> None:
        """Read the slow part of the lineage, if nobody has yet. Only right while the inputs are still the run's."""
        told = self.description
        if not lineage.is_captured(self.spool.lineage):
            lineage.capture_surroundings(
                Path(told.root), self.spool.lineage, inputs=told.inputs, config=told.config, argv=told.argv
            )

    def pump(self, *, redirect: str | None = None, recorder_is_gone: bool = False) -> bool:
        """Send what is new; True when the run is complete in MLflow and the spool is gone.

        Args:
            redirect: the address to use instead of the recording's own, if the run has not been opened anywhere yet.
            recorder_is_gone: a journal without an end will get none: the run was killed.
        """
        store = self._stores(self._progress["uri"] or redirect or self.description.tracking_uri)
        if self._progress["run_id"] is None:
            self._open(store)
        run_id = self._progress["run_id"]
        if not self._progress["lineage"] and (recorder_is_gone or lineage.is_captured(self.spool.lineage)):
            self._send_lineage(store, run_id)
        events = self.spool.events(self._progress["offset"])
        points: list[tuple[str, float, int, int]] = []
        for event, behind in events:
            if event["kind"] == "metrics":
                points += [(key, value, event["time"], event["step"]) for key, value in event["values"].items()]
                continue
            if event["kind"] == "close":
                self._send_points(store, run_id, points, None)
                if not self._progress["lineage"]:
                    return False  # the inputs are still being read
                self._finish(store, event["status"], event["error"], event["time"])
                return True
            self._send_points(store, run_id, points, None)
            points = []
            self._send(store, run_id, event)
            self._reached(behind)
        self._send_points(store, run_id, points, events[-1][1] if events else None)
        if recorder_is_gone:
            last = self.spool.journal if self.spool.journal.exists() else self.spool.folder
            self._finish(
                store, "KILLED", "the recording process ended without a word", int(last.stat().st_mtime * 1000)
            )
        return recorder_is_gone

    def _open(self, store: Store) -> None:
        told = self.description
        parent_waits = bool(told.enclosing) and Spool(self.spool.folder.parent / str(told.enclosing)).exists()
        run_id = store.open_run(told, parent_waits=parent_waits)
        store.log_params(run_id, told.config)
        store.log_tags(run_id, {"attndistill.command": told.command, **told.tags})
        self._progress |= {"run_id": run_id, "uri": store.uri}
        self._reached(0)

    def _send_lineage(self, store: Store, run_id: str) -> None:
        argv = {"lineage.argv": " ".join(self.description.argv)}
        store.log_tags(run_id, {**lineage.tags_of(self.spool.lineage), **argv})
        store.log_artifact(run_id, self.spool.lineage, "")
        self._progress["lineage"] = True
        self._reached(self._progress["offset"])

    def _send(self, store: Store, run_id: str, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "tag":
                store.log_tags(run_id, {event["key"]: event["value"]})
            case "dataset":
                store.log_dataset(run_id, event)
            case "artifact":
                store.log_artifact(run_id, self.spool.folder / event["path"], event["folder"])

    def _send_points(
        self, store: Store, run_id: str, points: list[tuple[str, float, int, int]], behind: int | None
    ) -> None:
        if points:
            store.log_metrics(run_id, points)
        if behind is not None:
            self._reached(behind)

    def _finish(self, store: Store, status: str, error: str, ended_ms: int) -> None:
        run_id = self._progress["run_id"]
        if error:
            store.log_tags(run_id, {"attndistill.error": error})
        store.end(run_id, status, ended_ms)
        self.spool.remove()

    def _reached(self, offset: int) -> None:
        self._progress["offset"] = offset
        write_json(self.spool.progress, self._progress)


class Stores:
    """Stores by address, each opened once."""

    def __init__(self) -> None:
        self._open: dict[str, Store] = {}

    def __call__(self, uri: str) -> Store:
        if uri not in self._open:
            self._open[uri] = Store(uri)
        return self._open[uri]


def deliver_all(folder: Path, *, redirect: str | None = None) -> list[Delivered]:
    """Send every spool in `folder` that nobody else is recording or sending, parents before children."""
    stores = Stores()
    waiting = [Spool(place) for place in sorted(folder.iterdir())] if folder.is_dir() else []
    return [_deliver(spool, stores, redirect) for spool in waiting if not spool.folder.name.startswith(".")]


def _deliver(spool: Spool, stores: Stores, redirect: str | None) -> Delivered:
    try:
        delivery = Delivery(spool, stores)
    except (ValueError, TypeError) as error:
        return Delivered(spool.folder.name, spool.folder, False, f"unreadable: {error}")
    name = delivery.description.name
    alive = delivery.description.recorder_is_alive()
    closed = any(event["kind"] == "close" for event, _ in spool.events(0))
    if alive and not closed:
        return Delivered(name, spool.folder, None, "still being recorded")
    if not delivery.begin():
        return Delivered(name, spool.folder, None, "another process is sending it")
    try:
        delivery.pump(redirect=redirect, recorder_is_gone=True)
    except Exception as error:
        message = reason(error)
        write_text(spool.folder / "last_error", message)
        return Delivered(name, spool.folder, False, f"{message}; kept in {spool.folder}")
    finally:
        delivery.release()
    return Delivered(name, spool.folder, True, f"run {delivery.run_id}")


def reason(error: Exception) -> str:
    """An error of the store in one line of bearable length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"

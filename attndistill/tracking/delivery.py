"""Delivery: carry a spool to MLflow, exactly once. Following a run and sending it later are the same code.

`progress.json` says how far the journal is sent and under which run. It is replaced after each step, and each step may
be repeated: a point, a param, a tag, a data set or an artifact that is already there stays as it is. So a sender may be
killed anywhere.
"""

import contextlib
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from attndistill.core.artifacts import write_text
from attndistill.core.secrets import hidden
from attndistill.tracking import lineage
from attndistill.tracking.address import own_uri, tracking_uri
from attndistill.tracking.spool import (
    Artifact,
    Close,
    Dataset,
    Delivered,
    Event,
    Figures,
    Metrics,
    Progress,
    Spool,
    Tag,
)
from attndistill.tracking.store import Store

LOCK_WAIT = 30.0  # seconds that `sync` waits for another process which is sending the same recording

_store = cache(Store)  # by address, each opened once


class Delivery:
    """One spool on its way to MLflow; holds the spool's lock from `begin` to `release`."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.description = spool.description()
        self.lost = 0  # events that are damaged, or whose files are
        self._lock = FileLock(spool.lock)
        self._progress = Progress()

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once it is known."""
        return self._progress.run_id

    def begin(self, *, wait: float = 0) -> bool:
        """Take the spool; False where another process has it, or has sent it meanwhile."""
        with contextlib.suppress(Timeout, OSError):
            if self.spool.exists():
                self._lock.acquire(timeout=wait)
            if self.spool.exists():
                self._progress = self.spool.reached()
                return True
            self.release()
            self.spool.lock.unlink()  # taking the lock of what was sent this moment has made its folder again
            self.spool.folder.rmdir()
        return False

    def release(self) -> None:
        self._lock.release()

    def capture(self) -> None:
        """Read the slow part of the lineage, if nobody has yet. Only right while the inputs are still the run's."""
        if not lineage.is_captured(self.spool.lineage):
            lineage.capture_surroundings(self.description, self.spool.lineage)

    def pump(self, *, redirect: str | None = None, recorder_is_gone: bool = False, follows: bool = False) -> bool:
        """Send what is new; True when the run is complete in MLflow and the spool is gone.

        Args:
            redirect: the address to use instead of the recording's own, if the run has not been opened anywhere yet.
            recorder_is_gone: a journal without an end will get none: the run was killed.
            follows: whether this is the recording's companion, which sees its outputs as the run made them.
        """
        store = _store(self._address(redirect))
        run_id = self._progress.run_id or self._open(store)
        if not self._progress.lineage and (recorder_is_gone or lineage.is_captured(self.spool.lineage)):
            self._send_lineage(store, run_id)
        events = self.spool.events(self._progress.offset)
        points: list[tuple[str, float, int, int]] = []
        tags: dict[str, str] = {}
        for event, behind in events:
            if isinstance(event, Metrics):
                points += [(key, value, event.time, event.step) for key, value in event.values.items()]
                continue
            if isinstance(event, Tag):
                tags[event.key] = event.value
                continue
            store.log_metrics(run_id, points)
            store.log_tags(run_id, tags)
            points, tags = [], {}
            if isinstance(event, Close):
                if not self._progress.lineage:
                    return False  # the inputs are still being read
                if follows and event.status == "FINISHED" and not (self.spool.lineage / "outputs.json").exists():
                    lineage.capture_outputs(self.description, self.spool.lineage)
                self._finish(store, run_id, event)
                return True
            self._send(store, run_id, event)
            self._reached(offset=behind)
        store.log_metrics(run_id, points)
        store.log_tags(run_id, tags)
        if events:
            self._reached(offset=events[-1][1])
        if recorder_is_gone:
            last = self.spool.journal if self.spool.journal.exists() else self.spool.folder
            time = int(last.stat().st_mtime * 1000)
            self._finish(store, run_id, Close(time=time, status="KILLED", error="the recording process was killed"))
        return recorder_is_gone

    def _address(self, redirect: str | None) -> str:
        """Where the run goes: the project's own database moves with it, a password is in the environment alone."""
        told = self.description
        wanted = self._progress.uri or redirect or told.tracking_uri
        if wanted == told.own_uri:
            return own_uri(self.spool.folder.parents[2])  # PROJECT/.work/tracking/SPOOL
        given = tracking_uri()
        if hidden(wanted) == hidden(given):
            return given
        if "***" in wanted:
            raise ValueError(f"the password of {wanted} is not kept: set MLFLOW_TRACKING_URI to the whole address")
        return wanted

    def _open(self, store: Store) -> str:
        told, spools = self.description, self.spool.folder.parent
        parent_waits = bool(told.enclosing) and Spool(spools / str(told.enclosing)).waits()
        run_id = store.open_run(told, parent_waits=parent_waits, lock=spools / ".calls.lock")
        store.describe(run_id)
        self._reached(run_id=run_id, uri=hidden(store.uri))
        return run_id

    def _send_lineage(self, store: Store, run_id: str) -> None:
        tags = lineage.tags_of(self.spool.lineage)
        store.log_tags(run_id, {**tags, "lineage.argv": " ".join(self.description.argv)})
        key = "lineage.input."
        store.log_producers(run_id, {name.removeprefix(key): md5 for name, md5 in tags.items() if name.startswith(key)})
        store.log_artifact(run_id, self.spool.lineage, "")
        self._reached(lineage=True)

    def _send(self, store: Store, run_id: str, event: Event | None) -> None:
        match event:
            case Dataset():
                store.log_dataset(run_id, event)
            case Figures():
                store.log_figures(run_id, self.description, event)
            case Artifact() if self._kept(event.path):
                store.log_artifact(run_id, self.spool.folder / event.path, event.folder)
            case _:
                self.lost += 1

    def _kept(self, path: str) -> bool:
        place = (self.spool.folder / path).resolve()
        return place.exists() and place.is_relative_to(self.spool.folder.resolve())

    def _finish(self, store: Store, run_id: str, end: Close) -> None:
        outputs = lineage.outputs_of(self.spool.lineage)
        lost = {"attndistill.left_out": f"{self.lost} damaged events of the journal"} if self.lost else {}
        error = {"attndistill.error": end.error} if end.error else {}
        store.log_tags(run_id, {**{f"output.{path}": md5 for path, md5 in outputs.items()}, **lost, **error})
        if outputs:
            store.log_artifact(run_id, self.spool.lineage / "outputs.json", "lineage")
        figures = [event for event, _ in self.spool.events(0) if isinstance(event, Figures)]
        if figures:  # by now the run that made the model is known
            store.log_to_model(run_id, self.description, figures)
        store.end(run_id, self.description, end.status, end.time)
        self.spool.remove()

    def _reached(self, **news: object) -> None:
        self._progress = self._progress.model_copy(update=news)
        write_text(self.spool.progress, self._progress.model_dump_json())


def deliver_all(folder: Path, *, redirect: str | None = None) -> list[Delivered]:
    """Send every spool in `folder` that nobody else is recording, parents before children."""
    places = sorted(place for place in folder.iterdir() if place.is_dir()) if folder.is_dir() else []
    return [_deliver(Spool(place), redirect) for place in places if not place.name.startswith(".")]


def _deliver(spool: Spool, redirect: str | None) -> Delivered:
    name = spool.folder.name
    try:
        delivery = Delivery(spool)
        name = delivery.description.name
        if delivery.description.recorder_is_alive() and not spool.is_closed():
            return Delivered(name, spool.folder, None, "still being recorded")
        if not delivery.begin(wait=LOCK_WAIT):
            if spool.exists():
                raise TimeoutError(f"another process has held {spool.lock} for {LOCK_WAIT:g} s")
            return Delivered(name, spool.folder, True, "by another process")
        try:
            delivery.pump(redirect=redirect, recorder_is_gone=True)
        finally:
            delivery.release()
    except Exception as error:
        with contextlib.suppress(OSError):
            write_text(spool.folder / "last_error", reason(error))
        return Delivered(name, spool.folder, False, f"{reason(error)}; kept in {spool.folder}")
    lost = f"; {delivery.lost} damaged events of its journal are left out" if delivery.lost else ""
    return Delivered(name, spool.folder, True, f"run {delivery.run_id}{lost}")


def reason(error: Exception) -> str:
    """An error in one line, whole: what to do about it comes last. Without passwords."""
    return f"{type(error).__name__}: {hidden(' '.join(str(error).split()))}"

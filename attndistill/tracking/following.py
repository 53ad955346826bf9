"""Following: the loop of the companion process. It sends while the run runs, and ends soon after its task ends."""

import json
import os
import select
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from attndistill.core.artifacts import write_text
from attndistill.tracking.delivery import Delivery, Stores, reason
from attndistill.tracking.spool import Spool

CADENCE = 1.0  # seconds between two looks into the journals
LONGEST_PAUSE = 30.0  # seconds between two tries at a store that does not answer
LAST_TRIES = 3  # at a store that does not answer, after the task has ended


def follow(first: Path, parent: int | None) -> int:
    """Send `first`, and every spool whose path comes as a JSON line on stdin, until stdin ends or `parent` dies.

    Returns 0 when all is sent, 1 when something must be sent later.
    """
    os.nice(5)  # importing mlflow is seconds of work, which the training shall not feel
    task = _Task(parent)
    follower = _Follower()
    follower.take(first)
    while not task.is_over:
        for spool in task.new_spools(CADENCE):
            follower.take(spool)
        follower.pump(recorder_is_gone=False)
    follower.finish_reading()
    for _ in range(LAST_TRIES):
        if not follower.pump(recorder_is_gone=True):
            return 0
        time.sleep(0.5)
    return 1


class _Task:
    """The process that records, seen through the pipe that it holds and through our parent's number."""

    def __init__(self, parent: int | None) -> None:
        self._parent = parent
        self._unread = b""
        self.is_over = False

    def new_spools(self, seconds: float) -> list[Path]:
        """Spools announced within `seconds`; the end of the pipe, or of the parent, ends the task at once."""
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], seconds)
        if ready:
            read = os.read(sys.stdin.fileno(), 65536)
            self.is_over = not read
            self._unread += read
        if self._parent is not None and os.getppid() != self._parent:
            self.is_over = True  # a forked worker may hold the pipe open long after its parent was killed
        *lines, self._unread = self._unread.split(b"\n")
        return [Path(json.loads(line)) for line in lines]


class _Follower:
    def __init__(self) -> None:
        self._stores = Stores()
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._reading: list[Future[None]] = []
        self._taken: list[Delivery] = []
        self._untaken: list[Delivery] = []
        self._pause = 0.0
        self._next_try = 0.0

    def take(self, spool: Path) -> None:
        """Begin with a spool: its inputs are read, beside all else, as long as they are what the run reads."""
        delivery = Delivery(Spool(spool), self._stores)
        if not delivery.begin():
            self._untaken.append(delivery)
            return
        self._taken.append(delivery)
        self._reading.append(self._reader.submit(self._capture, delivery))

    def pump(self, *, recorder_is_gone: bool) -> bool:
        """Send what is new of every spool; True where something is left to do."""
        if time.monotonic() < self._next_try and not recorder_is_gone:
            return True
        for delivery in [delivery for delivery in self._untaken if delivery.begin()]:
            self._untaken.remove(delivery)
            self._taken.append(delivery)
        failed = False
        for delivery in list(self._taken):
            try:
                if delivery.pump(recorder_is_gone=recorder_is_gone):
                    self._taken.remove(delivery)
                    delivery.release()
            except Exception as error:
                self._failed(delivery, error)
                failed = True
                break  # the others would wait for the same store
        self._pause = min(max(2 * self._pause, CADENCE), LONGEST_PAUSE) if failed else 0.0
        self._next_try = time.monotonic() + self._pause
        return bool(self._taken)

    def finish_reading(self) -> None:
        """Wait for the lineage that is still being read."""
        wait(self._reading)

    def _capture(self, delivery: Delivery) -> None:
        try:
            delivery.capture()
        except Exception as error:  # an unreadable corner is no reason to lose the curves
            self._failed(delivery, error)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        print(f"{delivery.spool.folder.name}: {reason(error)}", flush=True)  # companion.log
        if delivery.spool.folder.exists():
            write_text(delivery.spool.folder / "last_error", reason(error))

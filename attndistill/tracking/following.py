"""Following: the loop of the companion process. It sends while the run runs, and ends soon after its task ends.

The task is watched by a thread of its own: a server that sends a byte every two seconds holds the sending for as long
as it likes, and must hold neither the end nor the deadline after it.
"""

import contextlib
import json
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from attndistill.core.artifacts import write_text
from attndistill.tracking.companion import DEADLINE, patience, say
from attndistill.tracking.delivery import Delivery, reason
from attndistill.tracking.spool import Spool

CADENCE = 1.0  # seconds between two looks into the journals
LONGEST_PAUSE = 30.0  # seconds between two tries at a store that does not answer
LAST_TRIES = 3  # at a store that does not answer, after the task has ended


def follow(first: Path) -> int:
    """Send `first`, and every spool whose path comes as a JSON line on stdin, until stdin ends or the recorder dies.

    Returns 0 when all is sent, 1 when something must be sent later.
    """
    follower = _Follower()
    try:
        is_alive = Spool(first).description().recorder_is_alive
    except ValueError:  # damaged, or sent by somebody else
        is_alive = partial(bool, True)
    task = _Task(is_alive, max(DEADLINE, patience()), follower.give_up)
    follower.take(first)
    while not task.is_over.is_set():
        for spool in task.new_spools(CADENCE):
            follower.take(spool)
        follower.pump(recorder_is_gone=False)
    for spool in task.new_spools(0):
        follower.take(spool)
    follower.finish_reading()
    for _ in range(LAST_TRIES):
        if not follower.pump(recorder_is_gone=True):
            return 0
        time.sleep(0.5)
    return 1


class _Task:
    """The process that records, seen through the line that it holds and by its number."""

    def __init__(self, is_alive: Callable[[], bool], deadline: float, give_up: Callable[[float], None]) -> None:
        self._is_alive = is_alive
        self._announced: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self.is_over = threading.Event()
        self._after = threading.Timer(deadline, give_up, [deadline])
        self._after.daemon = True
        threading.Thread(target=self._watch, daemon=True).start()

    def new_spools(self, seconds: float) -> list[Path]:
        """Spools announced meanwhile; the end of the task ends the waiting at once."""
        self.is_over.wait(seconds)
        return [self._announced.get() for _ in range(self._announced.qsize())]

    def _watch(self) -> None:
        unread = b""
        try:
            # a forked worker may hold the line open long after its parent was killed
            while self._is_alive():
                if not select.select([sys.stdin.fileno()], [], [], CADENCE)[0]:
                    continue
                read = os.read(sys.stdin.fileno(), 65536)
                if not read:
                    return
                *lines, unread = (unread + read).split(b"\n")
                for line in lines:
                    self._announced.put(Path(json.loads(line)))
        finally:
            self._after.start()
            self.is_over.set()


class _Follower:
    def __init__(self) -> None:
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._reading: list[Future[None]] = []
        self._taken: list[Delivery] = []
        self._untaken: list[Delivery] = []
        self._pause = 0.0
        self._next_try = 0.0

    def take(self, spool: Path) -> None:
        """Begin with a spool: its inputs are read, beside all else, as long as they are what the run reads."""
        try:
            delivery = Delivery(Spool(spool))
        except ValueError as error:  # damaged, or sent by somebody else
            say(reason(error))
            return
        self._untaken.append(delivery)
        self._reading.append(self._reader.submit(self._capture, delivery))

    def pump(self, *, recorder_is_gone: bool) -> bool:
        """Send what is new of every spool; True where something is left to do."""
        if time.monotonic() < self._next_try and not recorder_is_gone:
            return True
        failed = False
        for delivery in list(self._untaken):
            if delivery.begin():
                self._taken.append(delivery)
            elif delivery.spool.exists():
                self._failed(delivery, TimeoutError(f"another process holds {delivery.spool.lock}"))
                continue
            self._untaken.remove(delivery)
        for delivery in list(self._taken):
            try:
                if delivery.pump(recorder_is_gone=recorder_is_gone, follows=True):
                    self._taken.remove(delivery)
                    delivery.release()
            except Exception as error:
                self._failed(delivery, error)
                failed = True
                if not isinstance(
                    error, (ValueError, LookupError, FileNotFoundError)
                ):  # not this recording's own fault
                    break  # the others would wait for the same store
        self._pause = min(max(2 * self._pause, CADENCE), LONGEST_PAUSE) if failed else 0.0
        self._next_try = time.monotonic() + self._pause
        return bool(self._taken or self._untaken)

    def finish_reading(self) -> None:
        """Wait for the lineage that is still being read."""
        wait(self._reading)

    def give_up(self, seconds: float) -> None:
        """The task has ended, and not all is sent in time: `sync` will send it."""
        for delivery in [*self._taken, *self._untaken]:
            if not (delivery.spool.folder / "last_error").exists():
                self._failed(delivery, TimeoutError(f"MLflow did not take it within {seconds:g} s of the run's end"))
        os._exit(1)

    def _capture(self, delivery: Delivery) -> None:
        try:
            delivery.capture()
        except Exception as error:  # an unreadable corner is no reason to lose the curves
            self._failed(delivery, error)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        say(f"{delivery.spool.folder.name}: {reason(error)}")  # companion.log
        with contextlib.suppress(OSError):  # a full disk
            if delivery.spool.exists():
                write_text(delivery.spool.folder / "last_error", reason(error))

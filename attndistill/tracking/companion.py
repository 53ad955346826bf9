"""The companion: one process beside the training that has mlflow imported and sends what the recordings say.

It comes with the first recording of a process and is shared by all of them. It lives in a session of its own, so that
Ctrl-C ends the training and not the telling; it watches the training through a socket and by its number, so that a
training killed outright is still reported as killed and no companion outlives its task by more than `DEADLINE`.
"""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path

from attndistill.tracking.spool import Spool
from attndistill.tracking.standby import companion_of

DEADLINE = 30.0  # seconds that a companion may outlive its task; longer where the end of a run waits longer


class Companion:
    """The companion of this process."""

    _current: "Companion | None" = None

    def __init__(self, first: Path) -> None:
        self.pid_of_owner = os.getpid()
        self.spools = [first]
        self.open_recordings = 1
        self.looked_at: set[Path] = set()
        self._line = companion_of(first)

    @classmethod
    def follow(cls, spool: Path) -> None:
        """Have this recording sent while it is written."""
        current = cls._current
        if current is None or current.pid_of_owner != os.getpid():
            cls._current = cls(spool)
            return
        current.open_recordings += 1
        current._announce(spool)

    @classmethod
    def take_children(cls, parent: Spool | None) -> None:
        """Have those recordings sent too that an engine's workers opened below `parent`, which this process opened."""
        current = cls._current
        if parent is None or current is None or current.pid_of_owner != os.getpid():
            return
        for folder in sorted(set(parent.folder.parent.glob("[!.]*/")) - current.looked_at):
            current.looked_at.add(folder)
            with contextlib.suppress(ValueError):  # damaged, or sent this moment
                told = Spool(folder).description()
                if told.enclosing == parent.folder.name and told.pid != os.getpid():
                    current._announce(folder)

    def _announce(self, spool: Path) -> None:
        self.spools.append(spool)
        try:
            self._line.sendall(json.dumps(str(spool)).encode() + b"\n")
        except OSError:  # somebody ended it: begin again with a new one, which `sync` supports for what the old one had
            self._line = companion_of(spool)

    @classmethod
    def leave(cls) -> None:
        """One recording has ended. With the last one, wait a bounded time until all is sent; say what is not."""
        current = cls._current
        if current is None or current.pid_of_owner != os.getpid():
            return
        current.open_recordings -= 1
        if current.open_recordings > 0:
            return
        cls._current = None
        current._finish()

    def ends(self, seconds: float) -> bool:
        """Whether the companion ends within some seconds of the end of its task, which is now."""
        last = time.monotonic() + seconds
        try:
            self._line.shutdown(socket.SHUT_WR)
            while True:
                self._line.settimeout(max(last - time.monotonic(), 0))
                if not self._line.recv(64):
                    return True
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:  # it was ended
            return True

    def _finish(self) -> None:
        sending = not self.ends(patience())
        self._line.close()
        waiting = [Spool(folder) for folder in self.spools if Spool(folder).exists()]
        if not waiting or (sending and patience() == 0):
            return
        names = ", ".join(_name(spool) for spool in waiting)
        state = f"{'still being sent to' if sending else 'not in'} MLflow{_reason(waiting[0])}"
        where = waiting[0].folder.parent
        say(f"tracking: {state}: {names}; kept in {where}, sent again by: python -m attndistill tracking sync")


def say(line: str) -> None:
    """A line on stderr; where nobody holds its other end, or the disk under it is full, it is lost."""
    with contextlib.suppress(Exception):
        print(line, file=sys.stderr, flush=True)


def patience() -> float:
    """Seconds that the end of a run waits for MLflow: $ATTNDISTILL_TRACKING_WAIT, 20 by default; 0 never waits."""
    try:
        return min(max(0.0, float(os.environ.get("ATTNDISTILL_TRACKING_WAIT", ""))), 1e6)
    except ValueError:
        return 20.0


def _name(spool: Spool) -> str:
    try:
        return spool.description().name
    except ValueError:  # sent this very moment
        return spool.folder.name


def _reason(spool: Spool) -> str:
    try:
        return f" ({(spool.folder / 'last_error').read_text().strip()})"
    except (OSError, ValueError):
        return ""

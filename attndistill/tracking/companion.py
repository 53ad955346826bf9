"""The companion: one process beside the training that imports mlflow and sends what the recordings say.

It is started with the first recording of a process and shared by all of them (importing mlflow takes seconds). It
lives in a session of its own, so that Ctrl-C ends the training and not the telling; it watches the training through a
pipe and through its parent's number, so that a training killed outright is still reported as killed and no companion
outlives its task by more than `DEADLINE`.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from attndistill.core.programs import program
from attndistill.tracking.spool import Spool

DEADLINE = 30.0  # seconds that a companion may outlive its task; longer where the end of a run waits longer


class Companion:
    """The companion of this process."""

    _current: "Companion | None" = None

    def __init__(self, first: Path) -> None:
        self.pid_of_owner = os.getpid()
        self.spools = [first]
        self.open_recordings = 1
        self.looked_at: set[Path] = set()
        self.process = self._started(first)

    @staticmethod
    def _started(first: Path) -> "subprocess.Popen[bytes]":
        words = program("attndistill.tracking.__main__", "leave", "follow", str(first), "--parent", str(os.getpid()))
        with (first / "companion.log").open("ab") as log:
            # never our stderr: who reads that to its end would wait for us
            return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

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
        pipe = self.process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(str(spool)).encode() + b"\n")
            pipe.flush()
        except OSError:  # somebody ended it: begin again with a new one, which `sync` supports for what the old one had
            self.process = self._started(spool)

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

    def _finish(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=patience())
        waiting = [Spool(folder) for folder in self.spools if Spool(folder).exists()]
        sending = self.process.poll() is None
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

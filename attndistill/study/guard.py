"""`python -m attndistill.study.guard COMMAND...`: runs a server, and ends it and all it started when its owner ends.

The owner holds the other end of standard input, so that even kill -9 of the owner is noticed. Owner and guard are in
different sessions; the guard and the server share one process group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_GRACE = 5.0  # seconds between asking the group to end and ending it


def guard(command: Sequence[str]) -> int:
    """Run a command until it ends or standard input does; then end every process of this session's group."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the group is asked to end with these; the guard stays to see it done
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def watch() -> None:
        sys.stdin.buffer.read()
        _end_group(child)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    _end_group(child)
    return code


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE)
    deadline = time.monotonic() + _GRACE
    while _others() and time.monotonic() < deadline:
        time.sleep(0.05)
    if _others():
        os.killpg(0, signal.SIGKILL)


def _others() -> bool:
    """Whether another living process is in this group."""
    group, own = os.getpgrp(), os.getpid()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and int(folder.name) != own and fields[0] != "Z":
                return True
    return False


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))

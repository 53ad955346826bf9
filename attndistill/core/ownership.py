"""One process at a time: locks, directories that one process works in, and processes that end in order.

A lock is flock's: the kernel lets go of it when its process ends, whatever the end was. It holds between processes and
containers of one machine, and between machines on NFS 4, or NFS 3 with its lock daemon, where the server keeps it.
Where a file system has no flock (ENOSYS, ENOLCK, EOPNOTSUPP: NFS mounted `nolock`, some FUSE), a marker file with a
heartbeat takes its place; an owner that was silent for a minute has lost it. That is an agreement, not a guarantee: a
process that was stopped for longer and continues works beside its successor.
"""

import errno
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

_WITHOUT_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_SILENCE = 60.0  # seconds without a heartbeat after which a marker's owner counts as gone


@contextmanager
def locked(path: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock on the file `path`, which is made in a folder that exists.

    Raises:
        TimeoutError: another process held it for `timeout` seconds.
    """
    with _acquired(path, timeout):
        yield


def _acquired(path: Path, timeout: float) -> Any:
    import filelock  # here: it takes 30 ms, and a refused command line needs none

    found = path.exists()
    try:
        return filelock.FileLock(path, fallback_to_soft=False).acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _WITHOUT_FLOCK:
            raise
    if not found:
        path.unlink(missing_ok=True)  # flock's empty file would pass for another's marker
    return filelock.SoftFileLease(path, lease_duration=_SILENCE).acquire(timeout=timeout)


@contextmanager
def owned(directory: Path, doing: str) -> Iterator[None]:
    """Make a directory and hold its lock.

    Args:
        directory: whose.
        doing: what another owner would be doing, for the message ("training this run").

    Raises:
        ValueError: another process holds it; says which, since when, and what to do.
    """
    directory.mkdir(parents=True, exist_ok=True)
    owner = directory / "owner"
    try:
        lock = _acquired(directory / "lock", 0.0)
    except TimeoutError:
        process, since, kill = _read_owner(owner)
        raise ValueError(
            f"{process} is already {doing}{since} ({directory}); a killed `dvc` or shell leaves its stage running: run "
            f"this again when it has ended, or end it{kill}"
        ) from None
    with lock:
        since = datetime.now().isoformat(" ", "seconds")
        owner.unlink(missing_ok=True)  # a pipe in its place would keep us waiting for a reader
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield


def _read_owner(path: Path) -> tuple[str, str, str]:
    """Who owns a directory, since when, and how to end it, in words; a record that cannot be read names nobody."""
    from attndistill.core.reading import read_text

    try:
        record = json.loads(read_text(path, at_most=2**16))
        pid, host, since = int(record["pid"]), str(record["host"]), str(record["since"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process", "", ""
    place = "" if host == socket.gethostname() else f" on {host}"
    return f"process {pid}{place}", f" since {since}", f" with `kill {pid}`{place}"


@contextmanager
def ended_in_order() -> Iterator[list[int]]:
    """`kill`, or a batch system that wants its machine back, interrupts the block as Ctrl-C does: it is cleaned up.

    Yields:
        The signal that came, once it has: [SIGTERM]. A second one would interrupt the cleaning up: it is ignored.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals are the main thread's
        return

    def interrupt(number: int, frame: object) -> None:
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)

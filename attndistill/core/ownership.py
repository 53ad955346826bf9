"""A directory that one process works in at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def owned(directory: Path, doing: str) -> Iterator[None]:
    """Make a directory and hold its lock.

    Args:
        directory: whose.
        doing: what another owner would be doing, for the message ("training this run").

    Raises:
        ValueError: another process (an orphan, say) holds it; names the process.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "lock", timeout=0)
    owner = directory / "owner"
    try:
        lock.acquire()
    except Timeout:
        pid = owner.read_text() if owner.exists() else "unknown"
        raise ValueError(f"process {pid} is already {doing} ({directory}); end it first") from None
    try:
        owner.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()

"""Standby: a process that has imported mlflow and forks a companion for every task that asks.

Importing mlflow and its database layer takes three seconds of a processor, which every stage of a `dvc repro` paid and
every short one waited for. So whoever needs the first companion starts a standby, and the next tasks find it at a
socket of the user's own. It forks and does nothing else: a companion gets the folder, the environment and the umask of
its own task. It serves only tasks that would have started the same program in the same environment (`_place`), and
leaves when nobody has needed it for `LINGERS` seconds. Where there can be no such socket, each task starts its own.

A task sends a length (4 bytes), its `_Request` and, once that is answered, a newline; then lines for its companion. So
a task that has waited too long, and has started a companion of its own, is not followed twice.
"""

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from attndistill.core.programs import program

LINGERS = 15.0  # seconds: longer than dvc takes between two stages
_HEARD, _GO_ON = b"!", b"\n"
_ANSWERS_WITHIN = 2.0  # seconds
_NAMESPACES = ("mnt", "pid", "net", "user")  # a container's own, where it shares the folder with others
# what differs between tasks and is read when it is needed, never while modules are imported
_OF_THE_TASK = ("DVC_", "ATTNDISTILL_", "PYTEST_", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI")
_OF_THE_SHELL = ("PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES")
_begun: "list[subprocess.Popen[bytes]]" = []  # by this process, and perhaps alive


@dataclass(frozen=True)
class _Request:
    """What a companion needs to be its task's own. Names may hold bytes that are no text: plain JSON, in ASCII."""

    spool: str
    folder: str
    umask: int
    environment: dict[str, str]
    waits: bool  # for an answer; whoever did not get one in time has another companion

    def written(self) -> bytes:
        words = json.dumps(asdict(self)).encode()
        return struct.pack(">I", len(words)) + words


def companion_of(spool: Path) -> socket.socket:
    """A line to a companion that follows `spool`: the next ones are announced on it, its end is the task's end.

    Raises OSError where no process can be started.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    told = _Request(spool=str(spool), folder=str(Path.cwd()), umask=umask, environment=dict(os.environ), waits=True)
    return _asked(told) or _started(replace(told, waits=False))


def _asked(told: _Request) -> socket.socket | None:
    """A line to the companion that a waiting standby has forked; None where none waits or answers."""
    line = socket.socket(socket.AF_UNIX)
    try:
        line.settimeout(_ANSWERS_WITHIN)
        line.connect(str(_place()))
        line.sendall(told.written())
        if line.recv(1) == _HEARD:
            line.sendall(_GO_ON)
            line.settimeout(None)
            return line
    except OSError:  # nobody there, or about to leave; a path that is too long for a socket; somebody else's folder
        pass
    line.close()
    return None


def _started(told: _Request) -> socket.socket:
    line, theirs = socket.socketpair()
    words = program("attndistill.tracking.standby", "serve")
    with theirs, Path(told.spool, "companion.log").open("ab") as log:
        # never our stderr: who reads that to its end would wait for us
        started = subprocess.Popen(words, stdin=theirs.fileno(), stdout=log, stderr=log, start_new_session=True)
    _begun[:] = [started, *(one for one in _begun if one.poll() is None)]
    line.sendall(told.written())
    return line


def _place() -> Path:
    """Where a standby waits for tasks with our program and environment. Raises OSError where it would not be safe."""
    from attndistill.core.artifacts import digest_of

    folder = Path(tempfile.gettempdir(), f"attndistill-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    package = Path(__file__).parents[1]
    decides = {
        "program": [sys.executable, str(package)],
        "code": max(file.stat().st_mtime_ns for part in ("core", "tracking") for file in (package / part).glob("*.py")),
        "machine": [
            socket.gethostname(),
            *(_number(f"/proc/self/ns/{kind}") for kind in _NAMESPACES),
        ],
        "environment": {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(_OF_THE_TASK) and key not in _OF_THE_SHELL
        },
    }
    return folder / digest_of(decides)[:16]


def _number(file: Path | str) -> int:
    try:
        return Path(file).stat().st_ino
    except OSError:  # it is gone, or this is a system without /proc
        return 0


def serve(_: list[str]) -> NoReturn:
    """The standby: for the task at stdin first, then for all that ask until nobody does."""
    os.nice(5)  # importing mlflow is seconds of work, which the training shall not feel
    place = _place_or_none()  # now: mlflow is imported with variables that tasks do not have
    _import()
    listener = None if place is None else _listening(place)
    first = socket.socket(fileno=os.dup(0))
    nowhere = os.open(os.devnull, os.O_RDWR)  # the log is the first task's, and goes with its spool
    os.dup2(nowhere, 0)
    _forked(first, listener)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.chdir("/")  # the first task's folder may go
    if listener is not None and place is not None:
        own, needed = _number(place), time.monotonic()
        while time.monotonic() < needed + LINGERS:
            if select.select([listener], [], [], 1.0)[0]:
                with contextlib.suppress(OSError):
                    _forked(listener.accept()[0], listener)
            if _anybody():
                needed = time.monotonic()
        if _number(place) == own:
            place.unlink(missing_ok=True)
    os._exit(0)


def _import() -> None:
    """What companions import. Where it cannot be had, each of them will say so."""
    with contextlib.suppress(Exception):
        from attndistill.tracking import following as following
        from attndistill.tracking.address import tracking_uri
        from attndistill.tracking.store import import_mlflow

        import_mlflow(tracking_uri())


def _place_or_none() -> Path | None:
    try:
        return _place()
    except OSError:
        return None


def _listening(place: Path) -> socket.socket | None:
    """A socket at our place; None where another standby has it, or nobody can."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if place.exists() and not _answers(place):
            place.unlink()  # of a standby that was killed
        listener.bind(str(place))
        listener.listen(64)
    except OSError:
        listener.close()
        return None
    return listener


def _answers(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as line:
        return line.connect_ex(str(place)) == 0


def _forked(line: socket.socket, listener: socket.socket | None) -> None:
    """Become the companion of the task at the other end of `line`, in a child."""
    if os.fork():
        line.close()
        return
    code = 1
    try:
        if listener is not None:
            listener.close()
        code = _follow(line)
    except BaseException:
        traceback.print_exc()  # to companion.log
    finally:
        os._exit(code)  # mlflow leaves threads behind that would be waited for


def _follow(line: socket.socket) -> int:
    from attndistill.tracking.following import follow

    line.settimeout(30.0)
    told = _Request(**json.loads(_read(line, struct.unpack(">I", _read(line, 4))[0])))
    if told.waits:
        line.sendall(_HEARD)
        if line.recv(1) != _GO_ON:
            return 1
    line.settimeout(None)
    os.environ.clear()
    os.environ.update(told.environment)
    os.umask(told.umask)
    with contextlib.suppress(OSError):
        os.chdir(told.folder)
    with Path(told.spool, "companion.log").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.dup2(line.fileno(), 0)
    line.close()
    return follow(Path(told.spool))


def _read(line: socket.socket, length: int) -> bytes:
    read = b""
    while len(read) < length:
        more = line.recv(length - len(read))
        if not more:
            raise ConnectionError("the task has gone")
        read += more
    return read


def _anybody() -> bool:
    """Whether a companion is at work; those that have ended are forgotten."""
    with contextlib.suppress(ChildProcessError):
        while True:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                return True
    return False

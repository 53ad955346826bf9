"""The pages: MLflow's and the dashboard of the studies, on 127.0.0.1 alone (the dashboard does not check hosts).

Both servers start processes of their own. So each lives in a process group under a guard that ends the whole group when
this command ends, however it ends: Ctrl-C, a closed terminal, kill -9.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from attndistill.study.address import STORAGE, make_folder, without_passwords
from attndistill.study.storage import Place
from attndistill.tracking.address import tracking_uri
from attndistill.tracking.spool import work_folder

_HOST = "127.0.0.1"
_START = 120.0  # seconds that a server may take to answer


@dataclass(frozen=True)
class _Page:
    """A server to be started. Addresses of storages are in its environment: they may hold a password."""

    name: str
    command: list[str]
    environment: dict[str, str]
    port: int

    @property
    def address(self) -> str:
        return f"http://{_HOST}:{self.port}"


def show_pages(root: Path, storage: str | None, artifacts: str | None) -> int:
    """Start both servers, print their addresses, wait for Ctrl-C, end both. A tracking server elsewhere is named.

    Raises:
        ValueError: a storage that does not answer, or a server that does not start (its last words are named).
    """
    place = Place.of(root, storage, artifacts)
    place.open()  # the dashboard makes no tables
    uri = tracking_uri()
    remote = uri.startswith(("http://", "https://"))
    pages = [*([] if remote else [_mlflow(uri)]), _dashboard(place)]
    logs = work_folder(root) / "ui"
    make_folder("logs", logs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends the servers in order too
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_guarded(page, _log(logs, page))) for page in pages]
        for page, server in zip(pages, servers, strict=True):
            _wait_until_it_answers(page, server, _log(logs, page))
        if remote:
            print(f"MLflow: {without_passwords([uri])[0]}", flush=True)
        for page in pages:
            print(f"{page.name}: {page.address}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # from the word on
            print(f"Ctrl-C ends {'it' if remote else 'both'}", flush=True)
            while all(server.poll() is None for server in servers):
                time.sleep(0.5)
            return 1
    return 0


def _log(logs: Path, page: _Page) -> Path:
    return logs / f"{page.name.lower()}.log"


def _mlflow(uri: str) -> _Page:
    port = _free_port()
    words = ["-m", "mlflow", "ui", "--host", _HOST, "--port", str(port), "--workers", "1"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return _Page("MLflow", [sys.executable, *words], {**settings, "MLFLOW_BACKEND_STORE_URI": uri}, port)


def _dashboard(place: Place) -> _Page:
    port = _free_port()
    words = ["-m", "attndistill.study.dashboard", _HOST, str(port), str(place.artifacts)]
    settings = {STORAGE: place.address}
    return _Page("optuna-dashboard", [sys.executable, *words], settings, port)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_HOST, 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _guarded(page: _Page, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server under a guard that ends it, and all that it started, with the block or with this process."""
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-m", "attndistill.study.guard", *page.command],
            stdin=subprocess.PIPE,  # its end is the guard's signal
            stdout=output,
            stderr=output,
            env={**os.environ, **page.environment},
            start_new_session=True,  # Ctrl-C reaches us alone; the guard ends its group in order
        )
    try:
        yield guard
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _wait_until_it_answers(page: _Page, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(URLError, OSError), urlopen(page.address, timeout=2):
            return
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise ValueError(f"{page.name} does not answer at {page.address}: {lines[-1]} ({log})")

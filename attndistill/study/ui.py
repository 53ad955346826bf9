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
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from attndistill.study.storage import Place
from attndistill.tracking.address import tracking_uri
from attndistill.tracking.spool import work_folder

_START = 120.0  # seconds that a server may take to answer


def show_pages(root: Path, storage: str | None, artifacts: str | None) -> int:
    """Start both servers, print their addresses, wait for Ctrl-C, end both.

    Raises:
        ValueError: a storage that does not answer, or a server that does not start (its last words are named).
    """
    place = Place.of(root, storage, artifacts)
    place.open()  # the dashboard makes no tables
    logs = work_folder(root) / "ui"
    logs.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends the servers in order too
    with contextlib.ExitStack() as stack:
        addresses = {}
        for name, command in {"MLflow": _mlflow, "optuna-dashboard": _dashboard}.items():
            port = _free_port()
            log = logs / f"{name.lower()}.log"
            server = stack.enter_context(_guarded(command(port, place), log))
            addresses[name] = f"http://127.0.0.1:{port}", server, log
        for name, (address, server, log) in addresses.items():
            _wait_until_it_answers(name, address, server, log)
        for name, (address, _, _) in addresses.items():
            print(f"{name}: {address}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # from the word on
            print("Ctrl-C ends both", flush=True)
            while all(server.poll() is None for _, server, _ in addresses.values()):
                time.sleep(0.5)
            return 1
    return 0


def _mlflow(port: int, _: Place) -> list[str]:
    words = ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, *words, "--backend-store-uri", tracking_uri()]


def _dashboard(port: int, place: Place) -> list[str]:
    words = ["--host", "127.0.0.1", "--port", str(port), "--artifact-dir", str(place.artifacts)]
    kind = ["--storage-class", "JournalFileStorage"] if place.is_journal else []
    return [sys.executable, "-m", "optuna_dashboard._cli", place.address, *words, *kind]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _guarded(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command under a guard that ends it, and all that it started, with the block or with this process."""
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-m", "attndistill.study.guard", *command],
            stdin=subprocess.PIPE,  # its end is the guard's signal
            stdout=output,
            stderr=output,
            env={**os.environ, **settings},
            start_new_session=True,  # Ctrl-C reaches us alone; the guard ends its group in order
        )
    try:
        yield guard
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _wait_until_it_answers(name: str, address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(URLError, OSError), urlopen(address, timeout=2):
            return
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise ValueError(f"{name} does not answer at {address}: {lines[-1]} ({log})")

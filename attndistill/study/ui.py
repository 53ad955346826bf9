"""The pages: MLflow's and the dashboard of the studies, on 127.0.0.1 alone.

The dashboard is served by this process. It does not check who asks, and deletes studies: a page elsewhere could ask for
that under a name of its own which it lets point to 127.0.0.1 (DNS rebinding). So requests under foreign names are
refused here; MLflow does so itself. MLflow's server starts processes of its own. So it lives in a process group under a
guard, `python -m attndistill.study.ui COMMAND...`, that ends the whole group when this command ends, however it ends:
Ctrl-C, a closed terminal, kill -9. The guard notices by its standard input, whose other end this command holds.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from attndistill.core.secrets import hidden
from attndistill.core.words import shown
from attndistill.study.storage import Place, make_folder
from attndistill.tracking.address import tracking_uri
from attndistill.tracking.spool import work_folder

_HOST = "127.0.0.1"
_NAMES = (_HOST, "localhost", "[::1]")  # under which a browser on this machine may ask
_PORTS = 2**16
_START = 120.0  # seconds that MLflow may take to answer
_GRACE = 5.0  # seconds between asking a group of processes to end and ending it
_EXPERIMENTS = 20  # whose tables are named
_OPENER = build_opener(ProxyHandler({}))  # a proxy does not know our machine

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def show_pages(root: Path, storage: str | None, artifacts: str | None, port: int | None = None) -> int:
    """Start both servers, print their addresses, wait for Ctrl-C, end both. A tracking server elsewhere is named.

    Args:
        root: of the project.
        storage: of the studies.
        artifacts: folder of their pictures.
        port: of MLflow, the dashboard's is the next; None for free ones.

    Raises:
        ValueError: a storage or a port that cannot be had, or a server that does not start (its last words are named).
    """
    place, uri = Place.of(root, storage, artifacts), tracking_uri()
    remote = uri.startswith(("http://", "https://"))
    ports = _ports(port, 1 if remote else 2)
    logs = work_folder(root) / "ui"
    make_folder("logs", logs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends the servers in order too
    with contextlib.ExitStack() as stack:
        dashboard = stack.enter_context(_dashboard(place, ports[-1]))
        guard = None if remote else stack.enter_context(_mlflow(uri, ports[0], logs / "mlflow.log"))
        for line in [f"MLflow: {shown(hidden(uri))}"] if remote else _tables(f"http://{_HOST}:{ports[0]}"):
            print(line, flush=True)
        print(f"optuna-dashboard: http://{_HOST}:{ports[-1]}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # from the word on
            print(f"Ctrl-C ends {'it' if remote else 'both'}", flush=True)
            while dashboard.is_alive() and (guard is None or guard.poll() is None):
                time.sleep(0.5)
            return 1
    return 0


def _ports(first: int | None, count: int) -> list[int]:
    """Free ports: `first` and those after it, or any. Raises ValueError for one that is taken."""
    if first is not None and not 0 < first <= _PORTS - count:
        raise ValueError(f"--port {first}; allowed: 1 to {_PORTS - count}")
    with contextlib.ExitStack() as stack:
        found = []
        for place in range(count):
            free = stack.enter_context(socket.socket())
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a server that has just ended is free
            try:
                free.bind((_HOST, 0 if first is None else first + place))
            except OSError as error:
                text = f"port {(first or 0) + place} of {_HOST} cannot be had: {error.strerror}"
                raise ValueError(f"{text}; allowed: another --port, or none for a free one") from None
            found.append(int(free.getsockname()[1]))
        return found


class _Server(ThreadingMixIn, WSGIServer):
    """A request does not wait for another: a page asks for many pictures at once."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Requests are nothing to print."""


@contextlib.contextmanager
def _dashboard(place: Place, port: int) -> Iterator[threading.Thread]:
    """Serve the dashboard of the studies while the block runs."""
    storage = place.open()  # the dashboard makes no tables
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    app = own_names_only(wsgi(storage, artifact_store=FileSystemArtifactStore(place.artifacts)), port)
    with make_server(_HOST, port, app, server_class=_Server, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            server.shutdown()


def own_names_only(app: App, port: int) -> App:
    """`app` for requests to this machine's own names on `port`, from its own pages; 403 for all others."""
    hosts = {f"{name}:{port}" for name in _NAMES} | (set(_NAMES) if port == 80 else set())
    origins = {f"http://{host}" for host in hosts}

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host, origin = environ.get("HTTP_HOST", "").lower(), environ.get("HTTP_ORIGIN")
        if host in hosts and (origin is None or origin.lower() in origins):
            return app(environ, start_response)
        status = HTTPStatus.FORBIDDEN
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"refused: allowed is http://{_HOST}:{port} alone\n".encode()]

    return checked


@contextlib.contextmanager
def _mlflow(uri: str, port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run MLflow's pages under a guard while the block runs, once they answer."""
    words = ["mlflow", "ui", "--host", _HOST, "--port", str(port), "--workers", "1"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    settings["MLFLOW_BACKEND_STORE_URI"] = uri  # here: it may hold a password, which a list of processes would show
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-m", "attndistill.study.ui", sys.executable, "-m", *words],
            stdin=subprocess.PIPE,  # its end is the guard's signal
            stdout=output,
            stderr=output,
            env={**os.environ, **settings},
            start_new_session=True,  # Ctrl-C reaches us alone; the guard ends its group in order
        )
    try:
        _wait_until_it_answers(f"http://{_HOST}:{port}", guard, log)
        yield guard
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _wait_until_it_answers(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(URLError, OSError), _OPENER.open(address, timeout=2):
            return
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise ValueError(f"MLflow does not answer at {address}: {shown(hidden(lines[-1]))} ({shown(log)})")


def _tables(address: str) -> list[str]:
    """A line for each experiment with its table of runs, which MLflow's first page is not."""
    asked = Request(
        f"{address}/api/2.0/mlflow/experiments/search",
        json.dumps({"max_results": _EXPERIMENTS, "order_by": ["last_update_time DESC"]}).encode(),
        {"Content-Type": "application/json"},
    )
    with _OPENER.open(asked, timeout=60) as answer:
        found = json.load(answer).get("experiments", [])
    lines = [
        f"MLflow, runs of {shown(one['name'])}: {address}/#/experiments/{one['experiment_id']}/runs" for one in found
    ]
    return lines or [f"MLflow: {address}"]


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

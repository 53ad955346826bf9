"""Stand-ins for PBS, LSF and Kubernetes: they keep Parsl's scripts and pods, and run them on this machine."""

import json
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_BEGIN = 'setsid bash "$here/script" >"$here/said" 2>&1 </dev/null & echo $! >"$here/pid"'
_END = 'kill -KILL -- "-$(cat "$here/pid")"'
_PROGRAMS = {
    "qsub": f'echo "$@" >"$here/words"; cp "${{@: -1}}" "$here/script"; {_BEGIN}; echo 7.here',
    "qstat": '[ "$1" = -Q ] && echo "Queue: gpu" || echo \'{"Jobs": {"7.here": {"job_state": "R"}}}\'',
    "qdel": _END,
    "bsub": f'echo "$@" >"$here/words"; cat >"$here/script"; {_BEGIN}; echo "Job <7> is submitted to queue <gpu>."',
    "bqueues": 'echo QUEUE_NAME PRIO; echo gpu 30',
    "bjobs": "echo 7 RUN",
    "bkill": _END,
    "blaunch": 'echo "$2" >"$here/nodes"; shift 2; exec "$@"',
}  # fmt: skip


def programs(folder: Path) -> dict[str, str]:
    """Write the batch systems' programs; gives the environment in which they are found."""
    (folder / "hosts").write_text("node2\nnode1\nnode1\n")
    for name, text in _PROGRAMS.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\nhere={folder}\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "LSB_DJOB_HOSTFILE": str(folder / "hosts")}


@contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Kubernetes' API, for pods alone: what a pod's container would run is a process of this machine.

    Yields the file that says where it is.
    """
    running: list[subprocess.Popen[bytes]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            (folder / "pod.json").write_text(json.dumps({"path": self.path, **pod}))
            container = pod["spec"]["containers"][0]
            running.append(subprocess.Popen([*container["command"], *container["args"]], start_new_session=True))
            self._answer(pod)

        def do_GET(self) -> None:
            self._answer({"status": {"phase": "Running"}})

        def do_DELETE(self) -> None:
            for process in running:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            running.clear()
            self._answer({})

        def _answer(self, content: object) -> None:
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    named = {
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {}}],
        "current-context": "here",
    }
    (folder / "config").write_text(json.dumps(named))
    try:
        yield folder / "config"
    finally:
        server.shutdown()
        server.server_close()

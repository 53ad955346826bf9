"""`python -m attndistill.study.dashboard HOST PORT ARTIFACTS`: the dashboard of $ATTNDISTILL_STUDY_STORAGE.

Its own command takes the address as an argument, where a list of processes would show its password.
"""

import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import wsgi

from attndistill.study.storage import Place


class _Server(ThreadingMixIn, WSGIServer):
    """A request does not wait for another: a page asks for many pictures at once."""

    daemon_threads = True


def serve(host: str, port: int, place: Place) -> None:
    """Answer requests until the process ends."""
    app = wsgi(place.open(), artifact_store=FileSystemArtifactStore(place.artifacts))
    make_server(host, port, app, server_class=_Server).serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Place.of(Path.cwd(), None, sys.argv[3]))

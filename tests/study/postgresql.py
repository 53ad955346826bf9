"""A PostgreSQL server of a test's own, from Debian's packages, in a temporary folder, as an ordinary user."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOME = Path("/usr/lib/postgresql")  # where Debian has its servers, a folder a version


def lacks() -> str | None:
    """Why there is no server to be had here; None where there is."""
    if not list(_HOME.glob("*/bin/initdb")):
        return f"no PostgreSQL server below {_HOME} (Debian: apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        return f"the PostgreSQL client does not work: {error}"
    return None


def expected() -> bool:
    """Whether a server has to be there: under CI on Debian as root, where `.ci/run` has installed it."""
    return bool(os.environ.get("CI")) and os.geteuid() == 0 and Path("/etc/debian_version").exists()


@contextmanager
def server() -> Iterator[str]:
    """The address of a running server; it and its data are gone with the block."""
    programs = sorted(_HOME.glob("*/bin"))[-1]
    account = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    home = Path(tempfile.mkdtemp(prefix="attndistill-postgresql-"))  # pytest's folders are closed to other accounts
    if account:
        shutil.chown(home, "postgres")

    def run(*command: str) -> None:
        done = subprocess.run(
            [str(programs / command[0]), *command[1:]], cwd=home, capture_output=True, check=False, **account
        )
        assert done.returncode == 0, done.stderr.decode()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        run("initdb", "-D", str(home / "data"), "-A", "trust", "-U", "study", "--no-sync")
        run("pg_ctl", "-D", str(home / "data"), "-o", f"-F -h 127.0.0.1 -p {port} -k {home}", "-l", str(home / "log"),
            "-w", "start")  # fmt: skip
        try:
            yield f"postgresql+psycopg://study@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", str(home / "data"), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home)

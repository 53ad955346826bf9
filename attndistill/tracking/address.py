"""Where a project's state lies, whatever its path is called: .work and, unless an address says otherwise, mlflow.db."""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from attndistill.core.places import project_folder

_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///([^?]*)(\?.*)?", re.DOTALL)


def work_folder(root: Path) -> Path:
    """Where the project at `root` keeps what is unfinished."""
    return project_folder(root) / ".work"


def tracking_uri(root: Path = Path()) -> str:
    """MLFLOW_TRACKING_URI, a sqlite file in it made absolute; else the project's own database."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        return own_uri(project_folder(root))
    file, found = sqlite_file(given), _SQLITE.fullmatch(given)
    return given if file is None or found is None else f"{sqlite_uri(file)}{found[2] or ''}"


def own_uri(project: Path) -> str:
    """The address of a project's own database."""
    return sqlite_uri((project / "mlflow.db").resolve())


def sqlite_uri(file: Path) -> str:
    """The address of a database file: in a path, %, ? and # would mean something else.

    A quoted one names its driver: after "sqlite:///", MLflow makes the folder as it is written.
    """
    path = str(file.absolute())
    return f"sqlite:///{path}" if quote(path) == path else f"sqlite+pysqlite:///{quote(path)}"


def sqlite_file(uri: str) -> Path | None:
    """The database file of a sqlite address, absolute; None for another kind of store."""
    found = _SQLITE.fullmatch(uri)
    if found is None or found[1] in ("", ":memory:"):
        return None
    return Path(unquote(found[1])).absolute()

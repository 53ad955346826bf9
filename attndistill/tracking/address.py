"""Where the tracking store is. Without an absolute address MLflow would put a database into every working directory."""

import os
from pathlib import Path
from urllib.parse import quote, unquote

_SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else mlflow.db in $ATTNDISTILL_ROOT, else in $DVC_ROOT, else in the working directory."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        root = os.environ.get("ATTNDISTILL_ROOT") or os.environ.get("DVC_ROOT") or "."
        return sqlite_address((Path(root).absolute() / "mlflow.db").resolve())
    database = sqlite_file(given)
    return given if database is None else sqlite_address(database)


def sqlite_file(uri: str) -> Path | None:
    """The database file of a sqlite address, absolute; None for another kind of store."""
    if not uri.startswith(_SQLITE) or uri == f"{_SQLITE}:memory:":
        return None
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0])).absolute()


def sqlite_address(path: Path) -> str:
    """The address of a database file: SQLAlchemy unquotes it, so that `?`, `#`, `%` and `:` stay parts of the path."""
    return f"{_SQLITE}{quote(str(path.absolute()))}"

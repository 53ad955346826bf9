"""A project that was moved or copied: MLflow stores absolute places of artifacts, and would go on in the old ones.

Our experiments keep their artifacts in mlartifacts/<name> beside the sqlite database. One whose place is that of
another folder has come here with its database: its rows are rewritten, as MLflow itself offers no way to. A run or a
model whose artifacts were left behind keeps its old place, as long as they are there.
"""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

ARTIFACTS = "mlartifacts"
_PLACES = {"runs": "artifact_uri", "logged_models": "artifact_location", "model_versions": "storage_location"}


def place_of(database: Path, experiment: str) -> str:
    """Where an experiment of ours keeps its artifacts."""
    return (database.parent / ARTIFACTS / experiment).as_uri()


def check_database(database: Path) -> None:
    """Raise ValueError for a file that is no database, a folder, a full disk: MLflow would try for minutes."""
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise ValueError(f"{database} cannot be opened as a database: {error}") from None


def follow_a_move(database: Path) -> None:
    """Make the places of experiments and runs those beside the database. The caller holds its lock."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for number, name, place in connection.execute(
            "SELECT experiment_id, name, artifact_location FROM experiments"
        ).fetchall():
            old = _path(place)
            if old is None or old.parts[-2:] != (ARTIFACTS, name) or _same(old.parents[1], database.parent):
                continue
            new = place_of(database, name)
            connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number))
            for table, column in _PLACES.items():
                for row, uri in connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall():
                    there = _path(uri)
                    if there is None or not there.is_relative_to(old):
                        continue
                    here = database.parent / ARTIFACTS / name / there.relative_to(old)
                    if here.exists() or not there.exists():
                        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (here.as_uri(), row))


def _path(uri: str | None) -> Path | None:
    """The folder of a place on this machine; None for another kind of place."""
    parts = urlsplit(uri or "")
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") and parts.path else None


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and one.samefile(other))

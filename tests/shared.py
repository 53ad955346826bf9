"""What one process of a test session makes and the others copy."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

FOLDER = "ATTNDISTILL_TESTS_FOLDER"  # which all processes of a session share; conftest.py makes and removes it


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder with what `make` puts there: it is called by the first that asks, the others wait."""
    folder = Path(os.environ[FOLDER]) / name
    made = folder.with_suffix(".made")
    with FileLock(folder.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def with_tables(project: Path) -> Path:
    """Put MLflow's empty tables, which take seconds to make, where a project has its runs, unless it has some."""
    if not (project / "mlflow.db").exists():
        shutil.copyfile(once("tables", _make_tables) / "mlflow.db", project / "mlflow.db")
    return project


def _make_tables(folder: Path) -> None:
    ask = f"import mlflow; mlflow.MlflowClient(tracking_uri='sqlite:///{folder}/mlflow.db').search_experiments()"
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", ask], env=quiet, cwd=folder, capture_output=True, check=True)

"""MLflow's empty tables: MLflow takes seconds to make them, so a session of tests makes one file and copies it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

FOLDER = "ATTNDISTILL_TESTS_FOLDER"  # of what a session's processes share; conftest.py makes and removes it


def with_tables(project: Path) -> Path:
    """Put a database without runs where a project has its own; gives the project."""
    ready = Path(os.environ[FOLDER]) / "mlflow.db"
    with FileLock(f"{ready}.lock"):
        if not ready.exists():
            made = ready.with_name("making.db")
            ask = f"import mlflow; mlflow.MlflowClient(tracking_uri='sqlite:///{made}').search_experiments()"
            quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
            subprocess.run([sys.executable, "-c", ask], env=quiet, cwd=ready.parent, capture_output=True, check=True)
            made.rename(ready)
    shutil.copyfile(ready, project / "mlflow.db")
    return project

import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
from filelock import FileLock
from recorded_project import Project
from shared import with_tables

from attndistill.tracking.address import sqlite_file


@pytest.fixture
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """In a folder called "project", or as the test's parameter says."""
    root = tmp_path / getattr(request, "param", "project")
    root.mkdir()
    (root / "params.yaml").write_text("a: 1\n")
    return Project(with_tables(root))


@pytest.fixture
def git(project: Project):
    def run(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=project.root, check=True, capture_output=True, text=True).stdout

    run("init", "-q")
    (project.root / ".gitignore").write_text("/.work/\n/mlflow.db*\n/mlartifacts/\n/ignored.txt\n")
    run("add", ".")
    run("commit", "-qm", "first")
    return run


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
    from mlflow import MlflowClient

    def of(store: str, experiment: str = "digits") -> list:
        file = sqlite_file(store)
        with FileLock(f"{file}.lock") if file else nullcontext():  # the client makes the tables, as the companion does
            client = MlflowClient(tracking_uri=store)
        found = client.get_experiment_by_name(experiment)
        return client.search_runs([found.experiment_id]) if found else []

    return of

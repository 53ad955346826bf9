"""The toy experiment, as one process runs it and as an engine's workers do."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

sys.path.append(str(Path(__file__).parents[1] / "study"))  # its toy project is ours too

from toy_project import ROOT, SETTINGS, Project

from attndistill.config import overlay, read_yaml
from attndistill.pipeline import run_pipeline

LOCAL = {"executor": "local", "workers": 2, "retries": 30}


class EngineProject(Project):
    """A toy project with a file for `--on`."""

    def on(self, **options: object) -> Path:
        """The file."""
        path = self.root / "on.yaml"
        YAML().dump({**LOCAL, **options}, path)
        return path

    def made(self) -> dict[str, str]:
        """Digest of every file of outputs/ and results/."""
        files = [path for name in ("outputs", "results") for path in (self.root / name).rglob("*") if path.is_file()]
        return {path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def left_behind(self) -> list[str]:
        """What lies in .work besides the board and what is kept for DVC."""
        known = ("engine/pipeline/plan.json", "engine/pipeline/tasks/", "engine/pipeline/lock", "engine/pipeline/owner")
        files = [path for path in (self.root / ".work").rglob("*") if path.is_file()]
        names = [path.relative_to(self.root / ".work").as_posix() for path in files]
        return [name for name in names if not name.startswith((*known, "finished/"))]

    def processes(self) -> list[str]:
        """Commands of living processes that work in this project."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.root) in (place / "cmdline").read_text() or str(self.root) in os.readlink(place / "cwd"):
                    found.append((place / "cmdline").read_text().replace("\0", " "))
            except OSError:
                pass
        return found


@pytest.fixture
def toy(tmp_path_factory) -> Callable[..., EngineProject]:
    """Makes a toy project of one row and two seeds, with nothing run yet."""

    def make(**settings: object) -> EngineProject:
        root = tmp_path_factory.mktemp("toy")
        write(root, settings)
        return EngineProject(root)

    return make


def write(root: Path, settings: dict) -> None:
    small = overlay(read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / "experiments/smoke/params.yaml"))
    longer = {"seeds": [0, 1], "distill": {"recipe": {"epochs": 6}}, "runtime": {"checkpoint_seconds": 0}}
    YAML().dump(overlay(overlay(overlay(small, SETTINGS), longer), settings), root / "params.yaml")
    (root / "rows.yaml").write_text("name: digits\nrows:\n  attndistill: {label: AttnDistill, set: {}}\n")
    (root / ".gitignore").write_text("outputs/\n.work/\n/mlflow.db\n")


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> dict[str, str]:
    """What one process makes of the toy project."""
    project = EngineProject(tmp_path_factory.mktemp("plain"))
    write(project.root, {})
    run_pipeline(project.experiment(), {})
    return project.made()

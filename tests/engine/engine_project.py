"""The toy experiment, as one process runs it and as an engine's workers do."""

import hashlib
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

sys.path.append(str(Path(__file__).parents[1] / "study"))  # its toy project is ours too

from toy_project import ROOT, SETTINGS, Project

from attndistill.config import overlay, read_yaml

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
        """Commands of living processes that work in this project; one that is ending is given time to."""
        deadline = time.monotonic() + 60
        while (found := self._working_here()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _working_here(self) -> list[str]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words, folder = (place / "cmdline").read_text(), str((place / "cwd").readlink())
            except OSError:
                continue
            if str(self.root) in words or str(self.root) in folder:
                found.append(words.replace("\0", " "))
        return found


def write(root: Path, settings: dict) -> None:
    small = overlay(read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / "experiments/smoke/params.yaml"))
    longer = {"seeds": [0, 1], "distill": {"recipe": {"epochs": 20}}, "runtime": {"checkpoint_seconds": 0}}
    YAML().dump(overlay(overlay(overlay(small, SETTINGS), longer), settings), root / "params.yaml")
    (root / "rows.yaml").write_text("name: digits\nrows:\n  attndistill: {label: AttnDistill, set: {}}\n")
    (root / ".gitignore").write_text("outputs/\n.work/\n/mlflow.db\n")

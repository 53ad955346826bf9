"""A copy of the project as a user has it: a git repository with DVC, at toy size, and real processes in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML
from shared import once, with_tables
from shipped import with_shipped_rows

from attndistill.config import overlay, read_yaml

ROOT = Path(__file__).parents[2]
TINY = {"seeds": [0], "runtime": {"tracking": False, "threads": 1}}


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would redirect a driver, with the test's Python first."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "ATTNDISTILL_"))}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **more}


def run(directory: Path, *command: str, code: int = 0, **more: str) -> subprocess.CompletedProcess:
    """Run a command to its end; its output is shown when it does not end as expected."""
    done = subprocess.run(
        command, cwd=directory, env=environment(**more), text=True, capture_output=True, timeout=900, check=False
    )
    assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def clone(destination: Path, settings: dict | None = None) -> Path:
    """The working tree's tracked files as a new repository whose base configuration is the smoke experiment's."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, destination / name, follow_symlinks=False)
    small = overlay(read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / "experiments/smoke/params.yaml"))
    small = overlay(small, settings or {})
    YAML().dump(small, destination / "params.yaml")
    with_shipped_rows(destination)
    run(destination, "python", "-m", "attndistill", "drivers", "--experiment", ".")  # of these rows, by the copy's code
    shutil.rmtree(destination / "results", ignore_errors=True)
    (destination / "dvc.lock").unlink(missing_ok=True)
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    run(destination, "git", "init", "-q")
    run(destination, "git", "add", "-A")
    run(destination, *git, "commit", "-qm", "a clone")
    return with_tables(destination)


def reproduced(destination: Path) -> Path:
    """A copy in which the default has been run by DVC, with one seed; made once a session."""
    whole = once("reproduced", _reproduce)
    shutil.copytree(whole, destination, symlinks=True, dirs_exist_ok=True)
    return destination


def _reproduce(folder: Path) -> None:
    clone(folder, {**TINY, "runtime": {**TINY["runtime"], "speeds": True}})
    run(folder, "dvc", "repro", "-q", PYTHONHASHSEED="1")


def attndistill(directory: Path, *arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess:
    """The command line, on the copy's own code."""
    return run(directory, "python", "-m", "attndistill", *arguments, code=code, **more)


def result(directory: Path) -> tuple[bytes, bytes]:
    """The bytes of the AttnDistill row's weights and curves."""
    weights = directory / "outputs/distilled/attndistill/seed-0/model.safetensors"
    return weights.read_bytes(), (directory / "results/training/attndistill.json").read_bytes()

"""What a command costs before it does anything: imports, the recorder of a run, lineage (`make bench`).

Each command is a process of its own, in a clone of this repository at toy size; in this order, since a stage reads what
those before it made.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import spread

ROOT = Path(__file__).parents[1]
_CLI = [sys.executable, "-m", "attndistill"]
_TOY = ["--experiment", "experiments/smoke"]
_UNTRACKED = ["--runtime.tracking", "false"]
COMMANDS = {
    "python, nothing": [sys.executable, "-c", ""],
    "attndistill --help": [*_CLI, "--help"],
    "attndistill config": [*_CLI, "config"],
    "a refused setting": [*_CLI, "distill", "--row", "attndistill", "--distill.lambda", "much"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import timm (and torch, torchvision)": [sys.executable, "-c", "import timm"],
    "import mlflow": [sys.executable, "-c", "import mlflow"],
    "prepare, not tracked": [*_CLI, "prepare", *_TOY, *_UNTRACKED],
    "prepare, tracked": [*_CLI, "prepare", *_TOY],
    "pretrain, 18 steps": [*_CLI, "pretrain", "--model", "teacher", *_TOY, *_UNTRACKED],
    "targets, two views": [*_CLI, "targets", *_TOY, *_UNTRACKED],
    "distill, 18 steps": [*_CLI, "distill", "--row", "attndistill", "--seeds", "[0]", *_TOY, *_UNTRACKED],
    "make smoke (the whole pipeline, not the environment)": [*_CLI, "pipeline", *_TOY],
    "report": [*_CLI, "report", *_TOY, *_UNTRACKED],
}


def measure(*, repeats: int, commands: list[str] | None = None) -> dict[str, Any]:
    """Command -> median and quartiles of seconds; the first run of each is not counted.

    Args:
        repeats: counted runs of each.
        commands: of `COMMANDS`; all when None. The whole pipeline runs once.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", str(ROOT), folder], check=True)
        return {name: _timed(name, Path(folder), repeats) for name in commands or COMMANDS}


def _timed(name: str, directory: Path, repeats: int) -> dict[str, float]:
    whole = name.startswith("make smoke")
    seconds = []
    for number in range(1 if whole else repeats + 1):
        start = time.perf_counter()
        done = subprocess.run(
            COMMANDS[name], cwd=directory, env=_environment(directory), capture_output=True, check=False
        )
        if number or whole:
            seconds.append(time.perf_counter() - start)
    wanted = 2 if name == "a refused setting" else 0
    if done.returncode != wanted:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr.decode()}")
    print(f"  {name}: {min(seconds):.2f} s", file=sys.stderr, flush=True)
    return spread(seconds)


def _environment(directory: Path) -> dict[str, str]:
    """The clone's own code; nothing of a tracking server or of DVC's around this process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "ATTNDISTILL_"))}
    return {**kept, "PYTHONPATH": str(directory), "MLFLOW_DISABLE_TELEMETRY": "true"}

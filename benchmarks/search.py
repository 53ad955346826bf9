"""What a study costs beside as many separate runs of the same settings (`make bench`). Nothing is pruned or tracked.

A separate run is one of two things: the two commands that make and judge one student on data, teacher and targets that
are there, or the whole pipeline in a clone of its own. A few are timed and taken times the number of trials.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.timing import spread

ROOT = Path(__file__).parents[1]
_CLI = [sys.executable, "-m", "attndistill"]
_SETTINGS = ["--runtime.tracking", "false"]
_ROW, _SEED = "attndistill", 0
_PREPARATION = (["prepare"], ["pretrain", "--model", "teacher"], ["targets"])


def measure(
    *, experiment: str, trials: int, separate: int, pipelines: int, prepared: Path | None = None
) -> dict[str, Any]:
    """Seconds of the study and of the separate runs, and the study's share of `trials` separate ones.

    Args:
        experiment: its folder.
        trials: of the study, one student each.
        separate: runs of the two commands that are timed.
        pipelines: whole pipelines that are timed; none where 0.
        prepared: a clone in which data, teacher and targets are; made when None.
    """
    with tempfile.TemporaryDirectory() as folder:
        clone = prepared or _cloned(Path(folder) / "shared")
        for command in [] if prepared else _PREPARATION:
            timed(clone, experiment, command)
        file = Path(folder) / "study.yaml"
        YAML().dump(_study(trials), file)
        storage = ["--storage", f"{folder}/studies.journal", "--artifacts", f"{folder}/artifacts"]
        study = timed(clone, experiment, ["study", str(file), *storage])
        runs = {"distill and probe": [_student(clone, experiment, number) for number in range(separate)]}
        if pipelines:
            runs["pipeline in its own clone"] = [
                _pipeline(Path(folder) / f"clone-{number}", experiment, number) for number in range(pipelines)
            ]
    return _compared(study, runs, trials)


def _compared(study: float, runs: dict[str, list[float]], trials: int) -> dict[str, Any]:
    found: dict[str, Any] = {"trials": trials}
    found |= {f"runs timed, {name}": len(seconds) for name, seconds in runs.items()}
    for name, seconds in runs.items():
        share = study / (trials * spread(seconds)["median"])
        found[f"share of {trials} times {name}"] = f"{share:.3f}"
    return {**found, "the study": spread([study]), **{name: spread(seconds) for name, seconds in runs.items()}}


def _study(trials: int) -> dict[str, Any]:
    return {
        "row": _ROW,
        "search": {
            "distill.lambda": {"type": "float", "low": 0.01, "high": 1.0, "scale": "log"},
            "distill.aggregation.temperature": {"type": "float", "low": 1.0, "high": 20.0, "scale": "log"},
        },
        "objectives": ["logistic_top1"],
        "seeds": [_SEED],
        "trials": trials,
        "timeout": None,
        "report_every": 10,
        "sampler": {"name": "tpe", "seed": 0},
        "pruner": {"name": "none", "startup_trials": 0, "warmup_epochs": 0},
        "surface": None,
        "enqueue": [],
    }


def _student(clone: Path, experiment: str, number: int) -> float:
    varied = ["--seeds", f"[{_SEED}]", "--distill.lambda", str(0.1 + 0.1 * number)]
    return sum(
        timed(clone, experiment, [*command, *varied])
        for command in (["distill", "--row", _ROW], ["probe", "--model", _ROW])
    )


def _pipeline(folder: Path, experiment: str, number: int) -> float:
    varied = ["--seeds", f"[{_SEED}]", "--distill.lambda", str(0.1 + 0.1 * number)]
    start = time.perf_counter()
    clone = _cloned(folder)
    return time.perf_counter() - start + timed(clone, experiment, ["pipeline", *varied])


def _cloned(folder: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    return folder


def timed(clone: Path, experiment: str, words: list[str]) -> float:
    """Seconds of one command, a process of its own on the clone's own code."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "ATTNDISTILL_"))}
    start = time.perf_counter()
    done = subprocess.run(
        [*_CLI, *words, "--experiment", experiment, *_SETTINGS],
        cwd=clone,
        env={**kept, "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr}")
    print(f"  {experiment}: {' '.join(words[:3])}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds

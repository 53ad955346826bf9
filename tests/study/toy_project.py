"""What the tests of studies share: a toy project, its processes, and study files of a few short trials."""

import os
import subprocess
import sys
from pathlib import Path

import optuna
from optuna_dashboard._note import get_note_from_system_attrs
from ruamel.yaml import YAML

from attndistill.experiments import open_experiment

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "seeds": [0],
    "data": {"set": {"test_fraction": 0.6}},
    "runtime": {"tracking": False, "threads": 1, "device": "cpu"},
    "attention": {"images": [0, 1]},
}
STUDY = {
    "row": "attndistill",
    "search": {
        "distill.lambda": {"type": "float", "low": 0.01, "high": 1.0, "scale": "log"},
        "distill.projector_depth": {"type": "choice", "choices": [1, 2]},
    },
    "objectives": ["knn_top1"],
    "seeds": [0],
    "trials": 3,
    "timeout": None,
    "report_every": 1,
    "sampler": {"name": "random", "seed": 0},
    "pruner": {"name": "none", "startup_trials": 0, "warmup_epochs": 0},
    "surface": None,
    "enqueue": [{"distill.lambda": 0.1, "distill.projector_depth": 1}],
}


class Project:
    """A folder with the toy experiment; commands run in processes of their own, on the code under test."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "ATTNDISTILL_"))}
        path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
        return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def write(self, name: str = "toy", **changes: object) -> Path:
        """A study file."""
        path = self.root / "search" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        YAML().dump({**STUDY, **changes}, path)
        return path

    def start(self, *words: str, **settings: str) -> "subprocess.Popen[str]":
        """`attndistill WORDS` in the background, with more settings of the environment."""
        command = [sys.executable, "-m", "attndistill", *words]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**self.environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, code: int = 0) -> str:
        """`attndistill WORDS` to its end; gives what it printed."""
        process = self.start(*words)
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == code, printed
        return printed

    def experiment(self):
        return open_experiment(self.root)


def note_of(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> str:
    """What the dashboard shows of a trial."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    body: str = get_note_from_system_attrs(attributes, trial._trial_id)["body"]
    return body

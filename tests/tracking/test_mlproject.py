import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LAUNCHED = """
import sys
from pathlib import Path
from attndistill.tracking import Recorder

with Recorder.open(root=Path.cwd(), command=sys.argv[1], name="by name", experiment="digits",
                   config={"distill": {"epochs": 5, "row": "attndistill"}}, argv=sys.argv) as run:
    run.metrics({"loss": 1.0}, step=0)
    if "--fail.now" in sys.argv:
        raise ValueError("as told")
"""


@pytest.mark.parametrize(
    ("entry_point", "given", "command"),
    [
        ("prepare", {}, "prepare --data ''"),
        ("pretrain", {"model": "scratch"}, "pretrain --model scratch"),
        ("targets", {}, "targets"),
        ("distill", {"distill.lambda": 0.3}, "distill --row attndistill --distill.lambda 0.3"),
        ("probe", {}, "probe --model attndistill --data ''"),
        ("probe", {"data": "cifar"}, "probe --model attndistill --data cifar"),
        ("attention", {}, "attention --model attndistill"),
        ("report", {}, "report"),
        ("pipeline", {}, "pipeline --on ''"),
    ],
)
def test_an_entry_point_is_the_command_of_the_stage(entry_point, given, command):
    from mlflow.projects._project_spec import load_project

    entry = load_project(str(PROJECT)).get_entry_point(entry_point)
    assert entry.compute_command(given, None) == f"python -m attndistill {command}"


def test_the_environment_is_the_lock_and_never_the_code_of_another_clone():
    from mlflow.utils.environment import _PythonEnv

    environment = _PythonEnv.from_yaml(str(PROJECT / "python_env.yaml"))
    assert environment.python == "3.11"
    assert environment.dependencies == ["-r requirements.lock"]


@pytest.mark.drivers
@pytest.mark.parametrize(
    ("setting", "code", "status"), [("distill.epochs=5", 0, "FINISHED"), ("fail.now=1", 1, "FAILED")]
)
def test_mlflow_run_gets_one_run_that_it_ends_itself(project, runs, setting, code, status):
    (project.root / "launched.py").write_text(LAUNCHED)
    entry = f"entry_points:\n  distill:\n    command: {sys.executable} launched.py distill\n"
    (project.root / "MLproject").write_text(f"name: toy\n{entry}")
    words = ["run", ".", "-e", "distill", "-P", setting, "--env-manager", "local", "--experiment-name", "digits"]
    environment = project.environment | {"MLFLOW_TRACKING_URI": project.store}
    finished = subprocess.run(
        [sys.executable, "-m", "mlflow", *words],
        cwd=project.root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert finished.returncode == code, finished.stderr
    (run,) = runs(project.store)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1.0}
    assert run.data.params["distill.epochs"] == "5"
    assert run.data.tags["lineage.argv"].startswith("launched.py distill --")
    assert project.spools == []

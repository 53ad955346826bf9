"""A study in MLflow, and its winner made the pipeline's by a real `dvc exp run`."""

import subprocess

import pytest
from toy_project import ROOT

from attndistill.config import read_yaml
from attndistill.experiments import open_experiment
from attndistill.study.commands import adopting, run_studies, show_best
from attndistill.study.plan import read_plan


def best(project, path, **more) -> int:
    chosen = {"storage": None, "number": None, "apply": False, **more}
    return show_best(str(path), project.experiment(), {}, **chosen)


@pytest.mark.drivers
def test_trials_are_children_of_one_study_run_with_lineage_whoever_works_on_them(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
    (project.root / ".gitignore").write_text("/outputs/\n/results/\n/.work/\n/mlflow.db*\n/mlartifacts/\n")
    path = project.write()
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "a project")):
        subprocess.run([*git, *words], cwd=project.root, check=True)
    project.run("study", str(path), "-j", "2", "--runtime.tracking", "true")
    project.run("tracking", "sync")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project.root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {item.path for item in client.list_artifacts(parents[0].info.run_id, "study")} == {
        "study/toy.json",
        "study/toy",
    }
    assert parents[0].data.tags["lineage.inputs_verified"].startswith("partly: not in dvc.lock: outputs/digits/data")
    for run in runs:
        assert len(run.data.tags["lineage.commit"]) == 40
        if run is not parents[0]:
            assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
            assert run.data.params["distill.lambda"] == run.data.tags["study.param.distill.lambda"]
            assert run.data.metrics["knn_top1"] == run.data.metrics["seed-0/validation_knn_top1"]


def test_the_winners_command_sets_params_yaml_and_names_what_it_cannot_reach(tmp_path):
    experiment = open_experiment(ROOT, "experiments/digits")
    plan = read_plan(ROOT / "experiments/search/default.yaml", experiment, {"runtime.workers": 1})
    point = {"distill.lambda": 0.05, "distill.projector_depth": 2}
    assert adopting(plan, point) == [
        *("dvc", "exp", "run", "-S", "params.yaml:distill.lambda=0.05", "-S", "params.yaml:distill.projector_depth=2")
    ]
    smoke = read_plan(ROOT / "experiments/search/smoke.yaml", open_experiment(ROOT, "experiments/smoke"), {})
    assert adopting(smoke, {"distill.lambda": 0.5})[1:] == [
        *("-m", "attndistill", "pipeline", "--experiment", "experiments/smoke", "--distill.lambda", "0.5")
    ]
    experiment.rows["attndistill"].set["distill.lambda"] = 0.2
    with pytest.raises(ValueError, match=r"distill.lambda is set by row attndistill in experiments/digits/rows.yaml"):
        adopting(plan, point)


@pytest.mark.drivers
def test_apply_runs_the_command_that_is_printed_and_dvc_writes_the_winner_into_params_yaml(project, capfd):
    path = project.write()
    with pytest.raises(ValueError, match=r"no study digits-toy-[0-9a-f]{8} here"):
        best(project, path)
    run_studies([str(path)], project.experiment(), {}, storage=None, artifacts=None, workers=1)
    text = (project.root / "params.yaml").read_text()
    (project.root / "params.yaml").write_text(f"# a comment\n{text}")
    (project.root / "dvc.yaml").write_text(
        "stages:\n  distill:\n    cmd: cp params.yaml seen.yaml\n    params: [distill]\n    outs: [seen.yaml]\n"
    )
    (project.root / ".gitignore").write_text("/outputs/\n/results/\n/.work/\n/seen.yaml\n")
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in ((*git, "init", "-q"), ("dvc", "init", "-q"), (*git, "add", "-A"), (*git, "commit", "-qm", "all")):
        subprocess.run(words, cwd=project.root, check=True)
    capfd.readouterr()
    assert best(project, path, apply=True) == 0
    printed = capfd.readouterr().out
    command = next(line.strip() for line in printed.splitlines() if line.strip().startswith("dvc exp run "))
    weight = command.partition("distill.lambda=")[2].split()[0]
    for name in ("params.yaml", "seen.yaml"):
        assert read_yaml(project.root / name)["distill"]["lambda"] == float(weight)
        assert (project.root / name).read_text().startswith("# a comment\n")
    with pytest.raises(ValueError, match=r"no finished trial 7"):
        best(project, path, number=7)

"""A study in MLflow, and its winner made the pipeline's by a real `dvc exp run`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from shared import with_tables
from toy_project import ROOT

from attndistill.config import read_yaml
from attndistill.experiments import open_experiment
from attndistill.outcomes import read_outcome
from attndistill.study.adopt import adopting, show_best
from attndistill.study.commands import run_studies
from attndistill.study.search import read_search


def best(project, path, **more) -> int:
    chosen = {"storage": None, "number": None, "apply": False, **more}
    return show_best(str(path), project.experiment(), {}, **chosen)


def with_this_python() -> dict[str, str]:
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def in_a_repository(root: Path) -> None:
    """Everything in a commit, under git and DVC."""
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in ((*git, "init", "-q"), ("dvc", "init", "-q"), (*git, "add", "-A"), (*git, "commit", "-qm", "all")):
        subprocess.run(words, cwd=root, check=True, env=with_this_python())


@pytest.mark.drivers
def test_trials_are_children_of_one_study_run_with_lineage_whoever_works_on_them(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
    (project.root / ".gitignore").write_text("/outputs/\n/results/\n/.work/\n/mlflow.db*\n/mlartifacts/\n")
    path = project.write()
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "a project")):
        subprocess.run([*git, *words], cwd=project.root, check=True)
    with_tables(project.root)
    project.run("study", str(path), "-j", "2", "--runtime.tracking", "true")
    path = project.write(trials=4)  # the same study, one trial longer
    project.run("study", str(path), "--runtime.tracking", "true")
    project.run("tracking", "sync")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project.root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({run.data.tags["study.name"] for run in runs}) == 1
    first, again = sorted((run for run in runs if "study.trial" not in run.data.tags), key=lambda r: r.info.start_time)
    assert "mlflow.parentRunId" not in first.data.tags
    assert again.data.tags["mlflow.parentRunId"] == first.info.run_id
    assert [item.path for item in client.list_artifacts(first.info.run_id, "study")] == ["study/toy"]
    assert first.data.tags["lineage.inputs_verified"].startswith("partly: not in dvc.lock: outputs/data")
    trials = [run for run in runs if "study.trial" in run.data.tags]
    parents = [run.data.tags["mlflow.parentRunId"] for run in trials]
    assert sorted(map(parents.count, (first.info.run_id, again.info.run_id))) == [1, 3]
    inputs = {key: value for key, value in first.data.tags.items() if key.startswith("lineage.input.")}
    assert len(inputs) == 3
    for run in trials:
        assert len(run.data.tags["lineage.commit"]) == 40
        assert inputs.items() <= run.data.tags.items()
        assert run.data.params["distill.lambda"] == run.data.tags["study.param.distill.lambda"]
        assert run.data.metrics["knn_top1"] == run.data.metrics["seed-0/validation_knn_top1"]


@pytest.mark.drivers
def test_the_study_entry_point_runs_a_study_with_its_trial_below_the_launchers_run(project):
    for name in ("MLproject", "python_env.yaml"):
        shutil.copy(ROOT / name, project.root)
    path = project.write(trials=1).relative_to(project.root)
    parameters = {"file": path, "workers": 1, "storage": "mine.journal", "runtime.tracking": "true"}
    words = ["mlflow", "run", ".", "-e", "study", "--env-manager", "local", "--experiment-name", "digits"]
    words += [word for key, value in parameters.items() for word in ("-P", f"{key}={value}")]
    uri = f"sqlite:///{with_tables(project.root)}/mlflow.db"
    environment = {**project.environment, "PATH": with_this_python()["PATH"], "MLFLOW_TRACKING_URI": uri}
    done = subprocess.run(words, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (project.root / "mine.journal").exists()
    project.run("tracking", "sync")  # what a slow machine has left
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    (launched,) = (run for run in runs if run.data.tags.get("mlflow.project.entryPoint") == "study")
    assert launched.data.params["study.trials"] == "1"
    (trial,) = (run for run in runs if run is not launched)
    assert trial.data.tags["mlflow.parentRunId"] == launched.info.run_id
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_the_winners_command_sets_params_yaml_and_names_what_it_cannot_reach(tmp_path):
    experiment = open_experiment(ROOT)
    search = read_search(ROOT / "search/default.yaml", experiment, {"runtime.workers": 1})
    point = {"distill.lambda": 0.05, "distill.projector_depth": 2}
    assert adopting(search, point) == [
        *("dvc", "exp", "run", "-S", "params.yaml:distill.lambda=0.05", "-S", "params.yaml:distill.projector_depth=2")
    ]
    smoke = read_search(ROOT / "experiments/smoke/search/smoke.yaml", open_experiment(ROOT / "experiments/smoke"), {})
    assert adopting(smoke, {"distill.lambda": 0.5})[1:] == [
        *("-m", "attndistill", "pipeline", "--distill.lambda", "0.5")
    ]
    assert adopting(search, {"distill.embedding_loss": None})[-1] == "params.yaml:distill.embedding_loss=null"
    experiment.rows["attndistill"].set["distill.lambda"] = 0.2
    with pytest.raises(ValueError, match=r"distill.lambda is set by row attndistill in rows.yaml"):
        adopting(search, point)


def test_the_winner_of_an_experiment_with_stages_of_its_own_goes_into_its_own_params_yaml(tmp_path):
    experiment = open_experiment(ROOT / "experiments/table10")
    path = tmp_path / "mine.yaml"
    YAML().dump({**read_yaml(ROOT / "search/default.yaml"), "row": "f-attndistill"}, path)
    search = read_search(path, experiment, {})
    assert adopting(search, {"distill.recipe.epochs": 20, "distill.projector_depth": 2}) == [
        *("dvc", "exp", "run", "-S", "params.yaml:distill.recipe.epochs=20"),
        *("-S", "params.yaml:+distill.projector_depth=2"),  # a plus where the overlay does not have it yet
    ]
    with pytest.raises(ValueError, match=r"probe.projector_layer: .* has no section probe, so no stage watches it"):
        adopting(search, {"probe.projector_layer": 1})


@pytest.mark.drivers
def test_dvc_takes_the_command_for_an_experiment_with_stages_of_its_own(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "rows.yaml").write_text("rows:\n  attndistill: {label: Mine, set: {}}\n")
    (mine / "params.yaml").write_text("distill:\n  recipe: {epochs: 6}  # why\n")
    (mine / "dvc.yaml").write_text(
        "stages:\n  distill:\n    cmd: cp params.yaml seen.yaml\n    params: [distill]\n    outs: [seen.yaml]\n"
    )
    (mine / ".gitignore").write_text("/seen.yaml\n")
    search = read_search(ROOT / "search/default.yaml", open_experiment(mine), {})
    in_a_repository(mine)
    point = {"distill.recipe.epochs": 7, "distill.aggregation.temperature": 5.0, "distill.embedding_loss": None}
    subprocess.run(adopting(search, point), cwd=mine, check=True, env=with_this_python())
    for path in (mine / "params.yaml", mine / "seen.yaml"):
        assert "# why" in path.read_text()
        found = {"recipe": {"epochs": 7}, "aggregation": {"temperature": 5.0}, "embedding_loss": None}
        assert read_yaml(path)["distill"] == found


def test_without_a_storage_the_winner_comes_from_the_file_that_git_keeps_and_nothing_is_made(tmp_path, capsys):
    shutil.copytree(ROOT / "search", tmp_path / "search")
    for name in ("params.yaml", "rows.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    study = "search/default.yaml"
    more = {"storage": None, "number": None, "apply": False}
    assert show_best(str(tmp_path / study), open_experiment(tmp_path), {}, **more) == 0
    told = capsys.readouterr()
    found = "search/found/default.json"
    (best,) = read_outcome(tmp_path / found).winners
    assert told.out.startswith(
        f"no study of this file and configuration in the default storage: from {found}\ntrial {best.number}: "
    )
    assert f"-S params.yaml:distill.lambda={best.settings['distill.lambda']} " in told.out
    current = read_search(tmp_path / study, open_experiment(tmp_path), {}).configuration
    changed = tmp_path / found
    changed.write_text(changed.read_text().replace(read_outcome(changed).configuration, current))
    capsys.readouterr()
    show_best(str(tmp_path / study), open_experiment(tmp_path), {}, **more)
    assert capsys.readouterr().err == ""
    overrides = {"distill.recipe.epochs": 30}
    show_best(str(tmp_path / study), open_experiment(tmp_path), overrides, **more)
    assert capsys.readouterr().err.startswith(f"attndistill: note: {found} was found with another configuration")
    (tmp_path / found).unlink()
    more["storage"] = f"sqlite://me:secret@/{tmp_path}/x.db"
    with pytest.raises(
        ValueError, match=r"no study of this file and configuration in sqlite://me:\*\*\*@/.*, and no search/"
    ):
        show_best(str(tmp_path / study), open_experiment(tmp_path), {}, **more)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dvc.yaml", "params.yaml", "rows.yaml", "search"]


@pytest.mark.drivers
def test_apply_runs_the_command_that_is_printed_and_dvc_writes_the_winner_into_params_yaml(project, capfd):
    path = project.write()
    run_studies([str(path)], project.experiment(), {}, storage=None, artifacts=None, workers=1)
    text = (project.root / "params.yaml").read_text()
    (project.root / "params.yaml").write_text(f"# a comment\n{text}")
    (project.root / "dvc.yaml").write_text(
        "stages:\n  distill:\n    cmd: cp params.yaml seen.yaml\n    params: [distill]\n    outs: [seen.yaml]\n"
    )
    (project.root / ".gitignore").write_text("/outputs/\n/results/\n/.work/\n/seen.yaml\n")
    in_a_repository(project.root)
    capfd.readouterr()
    assert best(project, path, apply=True) == 0
    printed = capfd.readouterr().out
    command = next(line for line in printed.splitlines() if line.startswith(f"  cd {project.root} && dvc exp run "))
    weight = command.partition("distill.lambda=")[2].split()[0]
    for name in ("params.yaml", "seen.yaml"):
        assert read_yaml(project.root / name)["distill"]["lambda"] == float(weight)
        assert (project.root / name).read_text().startswith("# a comment\n")
    with pytest.raises(ValueError, match=r"no finished trial 7"):
        best(project, path, number=7)

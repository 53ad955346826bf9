"""Real `mlflow run` of real stages, into a real sqlite store."""

from pathlib import Path

import pytest
from real_project import attndistill, clone, run

pytestmark = pytest.mark.drivers

RUN = ("mlflow", "run", ".", "--env-manager", "local", "--experiment-name", "digits")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"seeds": [0], "runtime": {"threads": 1}, "targets": {"views": 1}, "attention": {"images_per_class": 1}}
    return clone(tmp_path_factory.mktemp("project"), settings)


def stored_runs(project: Path) -> dict:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, order_by=["attributes.start_time ASC"])
    return {run.info.run_id: run for run in runs}


def test_the_pipeline_entry_point_runs_every_stage_as_a_child_of_one_run(project):
    uri = f"sqlite:///{project / 'mlflow.db'}"
    run(project, *RUN, "-e", "pipeline", "-P", "distill.lambda=0.3", MLFLOW_TRACKING_URI=uri)
    runs = stored_runs(project)
    parents = [r for r in runs.values() if "mlflow.parentRunId" not in r.data.tags]
    assert [r.info.status for r in parents] == ["FINISHED"]
    children = [r for r in runs.values() if r.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    names = sorted(r.info.run_name for r in children)
    assert names == sorted(
        [
            "prepare", "pretrain@teacher", "pretrain@scratch", "targets", "report",
            "distill@projector_alignment", "distill@attndistill",
            *(f"{stage}@{model}" for stage in ("probe", "attention")
              for model in ("teacher", "scratch", "projector_alignment", "attndistill")),
        ]
    )  # fmt: skip
    assert {r.info.status for r in children} == {"FINISHED"}
    student = next(r for r in children if r.info.run_name == "distill@attndistill")
    assert student.data.params["distill.lambda"] == "0.3"
    assert student.data.metrics["seed-0/loss"] > 0


def test_a_stage_entry_point_takes_settings_and_attaches_to_the_launchers_run(project):
    uri = f"sqlite:///{project / 'mlflow.db'}"
    before = set(stored_runs(project))
    run(
        project, *RUN, "-e", "distill", "-P", "row=attndistill", "-P", "distill.aggregation.temperature=5",
        MLFLOW_TRACKING_URI=uri,
    )  # fmt: skip
    new = [r for run_id, r in stored_runs(project).items() if run_id not in before]
    assert [r.info.status for r in new] == ["FINISHED"]
    assert float(new[0].data.params["distill.aggregation.temperature"]) == 5  # as the launcher wrote it
    assert new[0].data.metrics["seed-0/attention"] > 0


def test_a_refused_setting_ends_the_launchers_run_as_failed_with_one_clear_line(project):
    uri = f"sqlite:///{project / 'mlflow.db'}"
    before = set(stored_runs(project))
    done = run(project, *RUN, "-e", "distill", "-P", "distill.lamda=5", MLFLOW_TRACKING_URI=uri, code=1)
    assert "distill.lamda: unknown key (given 5)" in done.stderr
    new = [r for run_id, r in stored_runs(project).items() if run_id not in before]
    assert [r.info.status for r in new] == ["FAILED"]


def test_what_a_dead_server_missed_is_sent_by_tracking_sync(project):
    dead = "http://127.0.0.1:9"  # discard: nobody listens
    done = attndistill(project, "prepare", MLFLOW_TRACKING_URI=dead, ATTNDISTILL_TRACKING_WAIT="5")
    assert "tracking sync" in done.stderr
    before = set(stored_runs(project))
    uri = f"sqlite:///{project / 'mlflow.db'}"
    assert "sent: prepare" in attndistill(project, "tracking", "sync", MLFLOW_TRACKING_URI=uri).stdout
    new = [r for run_id, r in stored_runs(project).items() if run_id not in before]
    assert [(r.info.run_name, r.info.status) for r in new] == [("prepare", "FINISHED")]
    assert attndistill(project, "tracking", "sync", MLFLOW_TRACKING_URI=uri).stdout == "nothing to send\n"

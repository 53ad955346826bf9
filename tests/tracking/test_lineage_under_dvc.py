import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.drivers

STAGE = """
import sys
from pathlib import Path
from attndistill.tracking import Recorder

stage, *inputs = sys.argv[1:]
with Recorder.open(root=Path.cwd(), command=stage, name=f"{stage}@row", experiment="digits", config={}, argv=sys.argv,
                   inputs=[Path(path) for path in inputs], outputs=[Path(f"{stage}-out")]) as run:
    if stage == "fail":
        raise ValueError("as told")
    if stage == "probe":
        run.figures({"knn_top1": {0: 50.0, 1: 54.0}, "parameters": {0: 67104}})
    Path(f"{stage}-out").mkdir()
    Path(f"{stage}-out", "result.txt").write_text(stage)
    Path("results").mkdir(exist_ok=True)
    Path("results", f"{stage}.json").write_text("{}")
"""
PIPELINE = f"""
stages:
  prepare:
    cmd: {sys.executable} stage.py prepare
    outs: [prepare-out]
    metrics: [results/prepare.json: {{cache: false}}]
  distill:
    cmd: {sys.executable} stage.py distill prepare-out
    deps: [prepare-out]
    outs: [distill-out]
  probe:
    cmd: {sys.executable} stage.py probe prepare-out distill-out
    deps: [prepare-out, distill-out]
    outs: [probe-out]
"""


@pytest.fixture
def dvc(project, git):
    def run(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "dvc", *words]
        finished = subprocess.run(command, cwd=project.root, env=project.environment, capture_output=True, text=True)
        assert (finished.returncode != 0) == (code != 0), finished.stderr
        return finished.stderr

    run("init", "-q")
    (project.root / "stage.py").write_text(STAGE)
    (project.root / "dvc.yaml").write_text(PIPELINE)
    (project.root / ".gitignore").open("a").write("/prepare-out\n/distill-out\n/probe-out\n/other\n")
    git("add", ".")
    git("commit", "-qm", "pipeline")
    return run


def stages(found: list) -> list:
    """The runs of stages, oldest first, without the parents of DVC's calls."""
    own = [run for run in found if run.data.tags["stage"] != "dvc"]
    return sorted(own, key=lambda run: run.info.start_time)


def calls(found: list) -> list:
    return sorted((run for run in found if run.data.tags["stage"] == "dvc"), key=lambda run: run.info.start_time)


def test_under_dvc_the_code_is_clean_and_the_inputs_are_verified(project, git, dvc, runs):
    dvc("repro", "distill")
    prepare, distill = stages(runs(project.store))
    assert prepare.data.tags["lineage.dirty"] == "no"
    assert prepare.data.tags["lineage.inputs_verified"] == "none"
    assert distill.data.tags["lineage.dirty"] == "no"  # what prepare made, dvc.lock and results/ are no change of code
    assert distill.data.tags["lineage.inputs_verified"] == "yes"
    assert distill.data.tags["lineage.input.prepare-out"].endswith(".dir")

    (project.root / "stage.py").write_text(STAGE + "# another\n")
    (project.root / "prepare-out" / "result.txt").chmod(0o644)
    (project.root / "prepare-out" / "result.txt").write_text("touched behind dvc\n")
    (project.root / "distill-out").rename(project.root / "old")
    command = [sys.executable, "stage.py", "distill", "prepare-out"]
    subprocess.run(command, cwd=project.root, env=project.environment, check=True, timeout=120)
    newest = max(runs(project.store), key=lambda run: run.info.start_time)
    assert newest.data.tags["lineage.dirty"] == "yes"
    assert newest.data.tags["lineage.inputs_verified"].startswith("no: prepare-out (dvc.lock ")


def test_a_call_of_dvc_has_one_run_with_its_table_and_a_rows_run_has_losses_and_figures(project, git, dvc, runs):
    dvc("repro", "distill")
    dvc("repro")  # the student comes from the cache
    first, second = calls(runs(project.store))
    prepare, distill, probe = stages(runs(project.store))
    parents = [run.data.tags["mlflow.parentRunId"] for run in (prepare, distill, probe)]
    assert parents == [first.info.run_id, first.info.run_id, second.info.run_id]
    assert [run.info.run_name for run in (first, second)] == ["dvc repro", "dvc repro"]
    assert {run.info.status for run in (first, second)} == {"FINISHED"}
    commit = git("rev-parse", "HEAD").strip()
    assert {run.data.tags["mlflow.source.git.commit"] for run in (first, second, probe)} == {commit}
    figures = {"knn_top1": 52.0, "knn_top1_sd": 8**0.5, "knn_top1_n": 2.0, "parameters": 67104.0, "parameters_n": 1.0}
    assert second.data.metrics == {f"row.{key}": value for key, value in figures.items()}
    single = {"seed-0/knn_top1": 50.0, "seed-1/knn_top1": 54.0, "seed-0/parameters": 67104.0}
    assert probe.data.metrics == figures | single
    assert distill.data.metrics == figures | single
    assert prepare.data.metrics == figures | single  # a row's, too: here all stages are of the one item
    assert probe.data.tags["input_run.distill-out"] == distill.info.run_id
    assert probe.data.tags["input_run.prepare-out"] == prepare.info.run_id
    assert distill.data.tags["output.distill-out"] == probe.data.tags["lineage.input.distill-out"]
    note = distill.data.tags["mlflow.note.content"]
    assert note.startswith("Stage distill of row.\n")
    assert "| knn_top1 | 52 ± 2.8 | 2 |" in note
    assert "`dvc repro`; its stages are the runs below." in second.data.tags["mlflow.note.content"]


def test_a_dvc_experiment_is_named_and_a_failed_stage_fails_its_call(project, git, dvc, runs):
    (project.root / "dvc.yaml").write_text(f"stages:\n  fail:\n    cmd: {sys.executable} stage.py fail\n")
    git("commit", "-qam", "fails")
    dvc("exp", "run", "-n", "mine", code=1)
    (call,) = calls(runs(project.store))
    (fail,) = stages(runs(project.store))
    assert (call.info.run_name, call.info.status) == ("dvc exp mine", "FAILED")
    assert [run.data.tags["dvc.experiment"] for run in (call, fail)] == ["mine", "mine"]
    assert fail.data.tags["mlflow.note.content"] == (
        "Stage fail of row, DVC experiment mine.\n\nEnded by ValueError: as told"
    )


def test_the_lock_of_a_run_is_its_own_experiments(project, git, dvc, runs):
    from mlflow import MlflowClient

    folder = project.root / "experiments" / "digits"
    folder.mkdir(parents=True)
    own = PIPELINE.replace("    cmd:", "    wdir: ../..\n    cmd:")
    (project.root / "dvc.yaml").write_text("stages:\n  other:\n    cmd: mkdir other\n    outs: [other]\n")
    (folder / "dvc.yaml").write_text(own)
    git("add", ".")
    git("commit", "-qm", "moved")
    dvc("repro", "other")
    dvc("repro", "experiments/digits/dvc.yaml:distill")
    prepare, distill = stages(runs(project.store))
    assert distill.data.tags["lineage.inputs_verified"] == "yes"
    assert (prepare.data.tags["lineage.dirty"], distill.data.tags["lineage.dirty"]) == ("no", "no")
    client = MlflowClient(tracking_uri=project.store)
    kept = [{item.path for item in client.list_artifacts(run.info.run_id, "lineage")} for run in (prepare, distill)]
    assert ["lineage/dvc.lock" in names for names in kept] == [False, True]  # nothing of `prepare` was in a lock yet
    text = client.download_artifacts(distill.info.run_id, "lineage/dvc.lock", str(project.root))
    assert "prepare-out" in Path(text).read_text()


def test_stages_that_one_dvc_runs_at_once_have_one_parent(project, runs):
    (project.root / "stage.py").write_text(STAGE)
    (project.root / "dvc").write_text(
        "import subprocess, sys\n"
        "started = [subprocess.Popen([sys.executable, 'stage.py', name]) for name in ('a', 'b', 'c')]\n"
        "sys.exit(any([process.wait() for process in started]))\n"
    )
    environment = project.environment | {"DVC_STAGE": "a"}
    command = [sys.executable, "dvc", "repro", "--password", "s3cret"]
    subprocess.run(command, cwd=project.root, env=environment, check=True, timeout=180)
    (call,) = calls(runs(project.store))
    found = stages(runs(project.store))
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {call.info.run_id}
    assert (len(found), call.info.status) == (3, "FINISHED")
    assert call.data.tags["attndistill.command"] == "dvc repro --password ***"

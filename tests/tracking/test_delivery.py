import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

pytestmark = pytest.mark.drivers

RUN = """
Path("picture.txt").write_text("a picture")
with recording(inputs=["params.yaml"]) as run:
    for step in range(1500):
        run.metrics({"seed-0/loss": 1 / (step + 1)}, step=step)
    run.dataset(name="digits", digest="0123456789" * 5, context="training", source="data", profile={"train": 1257})
    run.artifact(Path("picture.txt"), folder="attention")
    run.tag("output_digest", "abc")
"""
ENDLESS = """
import multiprocessing
# it holds the companion's pipe too, and outlives its parent by a while
multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,), daemon=True).start()
with recording() as run:
    run.metrics({"loss": 1.0}, step=0)
    print("begun", flush=True)
    time.sleep(60)
"""


def dead_server() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def until(condition, seconds: float = 60):
    """The first true answer of `condition`; nobody looks at how long it took, but there is an end."""
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("it did not come to that")


def client(store: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store)


def assert_whole(store: str, run) -> None:
    """The run of RUN, once and completely."""
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "distill@attndistill"
    assert run.data.params == {"distill.epochs": "3", "distill.row": "attndistill", "data.classes": "[0, 1]"}
    assert run.data.tags["output_digest"] == "abc"
    history = client(store).get_metric_history(run.info.run_id, "seed-0/loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (step + 1)) for step in range(1500)]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.tags[0].value) == (
        "digits",
        ("0123456789" * 5)[:36],
        "training",
    )
    assert [item.path for item in client(store).list_artifacts(run.info.run_id, "attention")] == [
        "attention/picture.txt"
    ]
    lineage = {item.path for item in client(store).list_artifacts(run.info.run_id, "lineage")}
    names = ("code.json", "config.json", "command.json", "environment.json", "inputs.json", "requirements.txt")
    assert lineage >= {f"lineage/{name}" for name in names}


def test_a_run_lands_with_params_curves_data_artifacts_and_lineage(project, git, runs):
    project.record(RUN)
    (run,) = runs(project.store)
    assert_whole(project.store, run)
    assert project.spools == []
    tags = run.data.tags
    assert tags["lineage.commit"] == git("rev-parse", "HEAD").strip()
    assert tags["lineage.argv"] == "distill --row attndistill"
    assert tags["lineage.inputs_verified"] == "partly: not in dvc.lock: params.yaml"
    assert tags["lineage.input.params.yaml"] == "e0ccdaf42c593022e15b18cc0e96d201"
    assert run.info.artifact_uri.startswith(f"file://{project.root}/mlartifacts/digits/")
    assert not (project.root / "mlruns").exists()


def test_a_dead_server_costs_nothing_and_sync_delivers_exactly_once(project, runs):
    told = project.record(RUN, MLFLOW_TRACKING_URI=dead_server())
    assert "not in MLflow" in told
    assert "python -m attndistill tracking sync" in told
    assert len(project.spools) == 1
    code, said = project.sync()
    assert (code, "NOT sent: distill@attndistill" in said) == (1, True), said
    code, said = project.sync(MLFLOW_TRACKING_URI=project.store)
    assert code == 0, said
    (run,) = runs(project.store)
    assert_whole(project.store, run)
    assert project.sync(MLFLOW_TRACKING_URI=project.store) == (0, "nothing to send\n")
    assert len(runs(project.store)) == 1


def test_a_recording_sent_again_from_its_first_line_adds_nothing(project, runs, tmp_path):
    project.record(RUN, MLFLOW_TRACKING_URI=dead_server())
    (spool,) = project.spools
    shutil.copytree(spool, tmp_path / "copy")
    assert project.sync(MLFLOW_TRACKING_URI=project.store)[0] == 0
    shutil.copytree(tmp_path / "copy", spool)  # as if all had been sent and none of it remembered
    assert project.sync(MLFLOW_TRACKING_URI=project.store)[0] == 0
    (run,) = runs(project.store)
    assert_whole(project.store, run)


def test_a_run_whose_process_is_killed_does_not_stay_running(project, runs):
    process = project.start(ENDLESS)
    assert process.stdout.readline() == "begun\n"
    until(lambda: runs(project.store) and runs(project.store)[0].data.metrics == {"loss": 1.0})
    assert runs(project.store)[0].info.status == "RUNNING"
    process.send_signal(signal.SIGKILL)
    until(lambda: runs(project.store)[0].info.status != "RUNNING")
    (run,) = runs(project.store)
    assert run.info.status == "KILLED"
    until(lambda: project.spools == [])
    process.stdout.close()
    process.stderr.close()
    process.wait()


def test_no_companion_outlives_its_task_when_the_server_is_dead(project):
    process = project.start(ENDLESS, MLFLOW_TRACKING_URI=dead_server())
    assert process.stdout.readline() == "begun\n"
    (spool,) = project.spools
    until(lambda: companions(spool))
    process.kill()
    process.stdout.close()
    process.stderr.close()
    process.wait()
    until(lambda: not companions(spool))
    code, said = project.sync(MLFLOW_TRACKING_URI=project.store)
    assert (code, "sent: distill@attndistill" in said) == (0, True), said


def companions(spool: Path) -> list[str]:
    commands = [cmdline(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [str(command) for command in commands if b"follow\0" + bytes(spool) in command]


def test_an_exception_is_told_with_its_words(project, runs):
    process = project.start("with recording() as run:\n    raise ValueError('too bad')")
    process.communicate(timeout=120)
    assert process.returncode == 1
    (run,) = runs(project.store)
    assert (run.info.status, run.data.tags["attndistill.error"]) == ("FAILED", "ValueError: too bad")


@pytest.mark.parametrize(("entry_point", "attached"), [("distill", True), ("pipeline", False)])
def test_a_launched_command_attaches_to_its_own_run_and_is_a_child_of_another(project, runs, entry_point, attached):
    launcher = client(project.store)
    experiment = launcher.create_experiment("launched", artifact_location=(project.root / "mlartifacts").as_uri())
    opened = launcher.create_run(experiment, tags={"mlflow.project.entryPoint": entry_point})
    launcher.log_param(opened.info.run_id, "distill.epochs", "3.0")  # as -P gave it
    project.record(RUN, MLFLOW_RUN_ID=opened.info.run_id, MLFLOW_TRACKING_URI=project.store)
    found = {run.info.run_id: run for run in runs(project.store, "launched")}
    launched = found.pop(opened.info.run_id)
    assert launched.info.status == "RUNNING"  # ending it is the launcher's business
    if attached:
        assert found == {}
        assert launched.data.params == {"distill.epochs": "3.0", "distill.row": "attndistill", "data.classes": "[0, 1]"}
        return
    (child,) = found.values()
    assert child.data.tags["mlflow.parentRunId"] == opened.info.run_id
    assert_whole(project.store, child)


def test_a_run_id_left_in_the_environment_is_ignored(project, runs):
    project.record("with recording() as run: pass", MLFLOW_RUN_ID="0" * 32)
    (run,) = runs(project.store)
    assert "mlflow.parentRunId" not in run.data.tags


def test_recordings_inside_a_recording_become_its_children_even_when_sent_later(project, runs):
    body = """
    with recording("pipeline", "pipeline"):
        for stage in ("prepare", "distill"):
            with recording(stage, stage) as run:
                run.metrics({"loss": 1.0}, step=0)
    """
    project.record(body)
    project.record(body, MLFLOW_TRACKING_URI=dead_server())
    assert project.sync(MLFLOW_TRACKING_URI=project.store)[0] == 0
    found = runs(project.store)
    parents = [run.info.run_id for run in found if run.info.run_name == "pipeline"]
    children = {
        parent: sorted(run.info.run_name for run in found if run.data.tags.get("mlflow.parentRunId") == parent)
        for parent in parents
    }
    assert children == {parent: ["distill", "prepare"] for parent in parents}
    assert len(parents) == 2
    assert {run.info.status for run in found} == {"FINISHED"}


def test_four_processes_on_a_missing_database_all_survive(project, runs):
    processes = [project.start(RUN) for _ in range(4)]
    told = [process.communicate(timeout=180)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    until(lambda: project.spools == [])
    found = runs(project.store)
    assert len(found) == 4
    for run in found:
        assert_whole(project.store, run)


def test_sync_leaves_a_run_alone_that_is_still_recorded(project):
    process = project.start(ENDLESS, MLFLOW_TRACKING_URI=dead_server(), ATTNDISTILL_TRACKING_WAIT="0")
    assert process.stdout.readline() == "begun\n"
    try:
        assert project.sync() == (0, "skipped: distill@attndistill (still being recorded)\n")
    finally:
        process.kill()
        process.stdout.close()  # its forked child still holds the other end
        process.stderr.close()
        process.wait()


def test_a_real_server_gets_the_run_and_its_artifacts(project, runs):
    address = dead_server()
    port = address.rpartition(":")[2]
    words = [
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--workers",
        "1",
        "--backend-store-uri",
        "sqlite:///server.db",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        cwd=project.root,
        env=project.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: answers(f"{address}/health"), 120)
        assert project.record(RUN, MLFLOW_TRACKING_URI=address) == ""
        (run,) = runs(address)
        assert_whole(address, run)
        assert project.spools == []
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def cmdline(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from filelock import FileLock
from recorded_project import Project

from attndistill.tracking import delivery

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
# it holds the companion's line too, and outlives its parent by a while
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


def companions(spool: Path) -> list[Path]:
    """Processes that write the spool's companion.log."""
    log = str(spool / "companion.log")
    return [path for path in Path("/proc").glob("[0-9]*/fd/2") if link(path).removesuffix(" (deleted)") == log]


def test_an_exception_is_told_with_its_words(project, runs):
    process = project.start("with recording() as run:\n    raise ValueError('too bad')")
    process.communicate(timeout=120)
    assert process.returncode == 1
    (run,) = runs(project.store)
    assert (run.info.status, run.data.tags["attndistill.error"]) == ("FAILED", "ValueError: too bad")


@pytest.mark.parametrize("project", ["a%20b?c#d:e f;ü@%2541"], indirect=True)
def test_every_state_file_lies_in_the_project_whatever_it_is_called(project, git, runs):
    assert project.record(RUN) == ""
    (run,) = runs(project.store)
    assert_whole(project.store, run)
    assert run.data.tags["lineage.commit"] == git("rev-parse", "HEAD").strip()
    assert [path.name for path in project.root.parent.iterdir()] == [project.root.name]


def test_mlflow_shows_what_a_run_changes_and_keeps_the_whole_configuration(project, runs):
    project.record("with recording(changes={'distill.lambda': 0.3}, seeds=[0, 7]) as run: pass")
    (run,) = runs(project.store)
    assert run.data.params == {"distill.lambda": "0.3"}
    shown = {key: run.data.tags[key] for key in ("stage", "row", "seeds", "mlflow.note.content")}
    note = "Stage distill of attndistill, seeds 0, 7.\n\nChanges `distill.lambda` 0.3."
    assert shown == {"stage": "distill", "row": "attndistill", "seeds": "0, 7", "mlflow.note.content": note}
    kept = client(project.store).download_artifacts(run.info.run_id, "lineage/config.json", str(project.root))
    assert json.loads(Path(kept).read_text())["distill"] == {"epochs": 3, "row": "attndistill"}


def test_a_pipelines_run_has_the_table_of_its_stages(project, runs):
    project.record("""
    with recording("pipeline", "pipeline"):
        with recording("probe", "probe@attndistill") as run:
            run.figures({"knn_top1": {0: 51.0, 1: 53.0, 2: 55.0}})
        with recording("report", "report") as run:
            run.figures({"knn_top1": {0: 88.5}}, item="teacher")
    """)
    found = {run.info.run_name: run.data.metrics for run in runs(project.store)}
    table = {"attndistill.knn_top1": 53.0, "attndistill.knn_top1_sd": 2.0, "attndistill.knn_top1_n": 3.0}
    teacher = {"teacher.knn_top1": 88.5, "teacher.knn_top1_n": 1.0}
    assert found["pipeline"] == table | teacher
    assert found["report"] == teacher
    seeds = {"seed-0/knn_top1": 51.0, "seed-1/knn_top1": 53.0, "seed-2/knn_top1": 55.0}
    assert found["probe@attndistill"] == {"knn_top1": 53.0, "knn_top1_sd": 2.0, "knn_top1_n": 3.0, **seeds}


def test_a_description_that_somebody_wrote_stays(project, runs):
    project.record("with recording('a', 'a', outputs=['params.yaml']) as run: pass")
    (run,) = runs(project.store)
    client(project.store).set_tag(run.info.run_id, "mlflow.note.content", "mine")
    project.record("with recording('b', 'b', inputs=['params.yaml']) as run: run.figures({'top1': {0: 1.0}})")
    found = {run.info.run_name: run for run in runs(project.store)}
    assert found["a"].data.tags["mlflow.note.content"] == "mine"
    assert found["b"].data.tags["input_run.params.yaml"] == found["a"].info.run_id


def test_a_launchers_run_in_the_default_experiment_is_named_and_linked_to_the_projects(project, runs):
    launcher = client(project.store)
    opened = launcher.create_run("0", tags={"mlflow.project.entryPoint": "distill"}, run_name="dapper-fox-12")
    project.record(RUN, MLFLOW_RUN_ID=opened.info.run_id, MLFLOW_TRACKING_URI=project.store)
    (run,) = runs(project.store)
    assert_whole(project.store, run)
    launched = launcher.get_run(opened.info.run_id)
    assert run.data.tags["attndistill.launcher"] == launched.info.run_id
    assert (launched.info.run_name, launched.info.status) == ("distill@attndistill", "RUNNING")
    assert (launched.data.tags["attndistill.run"], launched.data.tags["row"]) == (run.info.run_id, "attndistill")
    place = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert f"[distill@attndistill]({place})" in launched.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(("given", "name"), [("dapper-fox-12", "distill@attndistill"), ("mine", "mine")])
def test_a_launchers_run_gets_our_name_where_it_has_one_by_chance(project, runs, given, name):
    launcher = client(project.store)
    experiment = launcher.create_experiment("digits")
    opened = launcher.create_run(experiment, tags={"mlflow.project.entryPoint": "distill"}, run_name=given)
    project.record("with recording() as run: pass", MLFLOW_RUN_ID=opened.info.run_id, MLFLOW_TRACKING_URI=project.store)
    (run,) = runs(project.store)
    assert run.info.run_name == name


def test_no_password_is_printed_or_kept(project, runs):
    address = dead_server().replace("http://", "http://me:s3cr@t@")
    body = """
    config = {"downloads": {"dino": {"url": "https://h/f?token=s3cr@t"}}}
    with recording(config=config, changes={"downloads.dino.url": "https://h/f?token=s3cr@t"},
                   argv=["distill", "--storage", "postgresql://me:s3cr@t@h/db"]) as run:
        run.tag("error", "no answer from http://me:s3cr@t@h/")
    """
    said = project.record(body, MLFLOW_TRACKING_URI=address)
    code, more = project.sync()
    assert (code, "the password of http://me:***@" in more) == (1, True), more
    again = project.sync(MLFLOW_TRACKING_URI=address)
    assert again[0] == 1
    written = b"".join(path.read_bytes() for path in project.root.rglob("*") if path.is_file())
    assert "not in MLflow" in said
    assert [word in text for text in (said, more, again[1]) for word in ("s3cr", "@t")] == [False] * 6
    assert b"s3cr" not in written
    assert project.sync(MLFLOW_TRACKING_URI=project.store)[0] == 0
    (run,) = runs(project.store)
    assert run.data.params == {"downloads.dino.url": "https://h/f?token=***"}
    assert "s3cr" not in str(run.data.tags)


def drip(listener: socket.socket) -> None:
    """A server that answers each request with a byte a second, and never ends."""

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(1)

    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()


def test_a_server_that_drips_keeps_no_companion_alive(project, runs):
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=drip, args=[listener], daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    said = project.record("with recording() as run: pass", MLFLOW_TRACKING_URI=address, ATTNDISTILL_TRACKING_WAIT="0.1")
    assert "still being sent to MLflow" in said
    (spool,) = project.spools
    until(lambda: not companions(spool), 90)
    listener.close()
    assert (spool / "last_error").read_text() == "TimeoutError: MLflow did not take it within 30 s of the run's end"
    assert project.sync(MLFLOW_TRACKING_URI=project.store)[0] == 0


def test_a_recording_that_another_process_holds_is_not_sent_and_says_so(project, runs, monkeypatch):
    monkeypatch.setattr(delivery, "LOCK_WAIT", 0.1)
    for name, value in {**project.environment, "MLFLOW_TRACKING_URI": project.store}.items():
        monkeypatch.setenv(name, value)
    project.record("with recording() as run: pass", MLFLOW_TRACKING_URI=dead_server())
    (spool,) = project.spools
    with FileLock(spool / "lock"):
        (held,) = delivery.deliver_all(spool.parent)
    assert (held.sent, "another process has held" in held.message) == (False, True)
    assert [found.sent for found in delivery.deliver_all(spool.parent, redirect=project.store)] == [True]


DAMAGES = (
    ("progress.json", "", True),
    ("progress.json", "null", True),
    ("progress.json", '{"offset": "many"}', True),
    ("progress.json", '{"offset": 999999999}', True),
    ("run.json", "", False),
    ("run.json", "null", False),
    ("run.json", '{"id": 3}', False),
    ("run.json", None, False),
    ("journal.jsonl", 'null\n[]\n{}\n{"kind": "metr\n\x00\n', True),
    ("journal.jsonl", '{"kind": "metrics", "time": 1, "step": 0, "values": {"a": "b"}}\n', True),
    ("journal.jsonl", '{"kind": "artifact", "time": 1, "path": "../../../params.yaml", "folder": ""}\n', True),
)


def test_a_damaged_recording_is_named_in_one_line_and_stops_no_other(project, runs):
    body = f"""
    for number in range({len(DAMAGES) + 1}):
        with recording(name=str(number)) as run:
            run.metrics({{'loss': 1.0}}, step=0)
    """
    project.record(body, MLFLOW_TRACKING_URI=dead_server(), ATTNDISTILL_TRACKING_WAIT="0")
    until(lambda: not companions(project.spools[0]))
    for spool, (file, content, _) in zip(project.spools, DAMAGES, strict=False):
        if content is None:
            (spool / file).unlink()
        else:
            kept = (spool / file).read_text() if file == "journal.jsonl" else ""
            (spool / file).write_text(content + kept)
    damaged = [spool / file for spool, (file, _, sent) in zip(project.spools, DAMAGES, strict=False) if not sent]
    code, said = project.sync(MLFLOW_TRACKING_URI=project.store)
    lines = said.splitlines()
    assert code == 1
    expected = [*(sent for _, _, sent in DAMAGES), True]
    assert [line.startswith("sent: ") for line in lines] == expected, said
    assert [spool.parent for spool in damaged] == project.spools
    assert all(str(path) in line for path, line in zip(damaged, lines[4:8], strict=True))
    left_out = {run.info.run_name: run.data.tags.get("attndistill.left_out") for run in runs(project.store)}
    names = [str(number) for number, sent in enumerate(expected) if sent]
    lost = {
        "8": "5 damaged events of the journal",
        "9": "1 damaged events of the journal",
        "10": "1 damaged events of the journal",
    }
    assert left_out == {name: lost.get(name) for name in names}


def test_what_mlflow_says_is_printed_whole(project):
    said = project.record("with recording() as run: pass", MLFLOW_TRACKING_URI="file:///nowhere/" + "a" * 300)
    code, more = project.sync()
    assert code == 1
    for text in (said, more):
        assert "migrate" in text
        assert len(text.splitlines()) == 1


def assert_at_home(project: Project, found: list, number: int) -> None:
    assert len(found) == number
    for run in found:
        assert run.info.artifact_uri.startswith((project.root / "mlartifacts" / "digits").as_uri() + "/")
        assert_whole(project.store, run)


def test_a_copied_project_finds_what_it_has_and_writes_nothing_into_the_old_place(project, runs, tmp_path):
    project.record(RUN)
    other = Project(tmp_path / "else where")
    shutil.copytree(project.root, other.root)
    before = sorted(project.root.rglob("*"))
    other.record(RUN)
    assert_at_home(other, runs(other.store), 2)
    assert sorted(project.root.rglob("*")) == before
    assert_at_home(project, runs(project.store), 1)


def test_a_moved_project_takes_its_recordings_along(project, runs, tmp_path):
    project.record(RUN)
    (project.root / "mlflow.db").rename(tmp_path / "aside")
    (project.root / "mlflow.db").mkdir()  # nothing can be sent
    assert f"({ValueError.__name__}: {project.root}/mlflow.db cannot be opened as a database" in project.record(RUN)
    (project.root / "mlflow.db").rmdir()
    (tmp_path / "aside").rename(project.root / "mlflow.db")
    other = Project(tmp_path / "elsewhere")
    shutil.move(project.root, other.root)
    assert other.sync()[0] == 0
    assert_at_home(other, runs(other.store), 2)
    assert not project.root.exists()


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
    (project.root / "mlflow.db").unlink()  # one of them has to make the tables
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


def link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # it has just ended
        return ""

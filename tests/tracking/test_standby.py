"""A process with mlflow imported waits for the next task, and leaves when none comes."""

import contextlib
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest

from attndistill.tracking import standby

pytestmark = pytest.mark.drivers

LONG = """
with recording() as run:
    print("begun", flush=True)
    input()
"""
RECORD = "with recording() as run:\n    run.metrics({'loss': 1.0}, step=0)"


@pytest.fixture
def waiting(project, tmp_path):
    """The sockets at which standbys wait, of this test alone."""
    project.environment["TMPDIR"] = str(tmp_path)
    return lambda: sorted((tmp_path / f"attndistill-{os.getuid()}").glob("*"))


def owner(place: Path) -> int:
    """The process that waits at a socket."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(place))
        told = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(told[:4], "little")


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def test_two_tasks_are_sent_by_companions_of_one_standby_that_leaves_afterwards(project, runs, waiting):
    with project.start(LONG) as first:
        assert first.stdout.readline() == "begun\n"
        while not waiting():
            time.sleep(0.2)
        (place,) = waiting()
        process = owner(place)  # it does not leave as long as the first task is there
        assert project.record(RECORD, MLFLOW_RUN_ID="0" * 32, DVC_STAGE="x") == ""
        assert (waiting(), owner(place)) == ([place], process)
        assert first.communicate("go on\n", timeout=120)[1] == ""
    assert [run.info.status for run in runs(project.store)] == ["FINISHED"] * 2
    last = time.monotonic() + 60
    while waiting() or not gone(process):
        assert time.monotonic() < last
        time.sleep(0.2)


def test_a_companion_has_the_environment_the_folder_and_the_umask_of_its_own_task(project, runs, waiting):
    project.record(RECORD)
    project.record("os.umask(0o027)\n" + RECORD.replace("recording()", "recording('b', 'b')"), DVC_STAGE="b")
    (run,) = [run for run in runs(project.store) if run.info.run_name == "b"]
    (kept,) = Path(run.info.artifact_uri.removeprefix("file://")).rglob("command.json")
    assert '"DVC_STAGE": "b"' in kept.read_text()
    assert kept.parent.stat().st_mode & 0o777 == 0o750


def test_bytes_that_are_no_text_in_the_environment_hinder_nothing(project, runs, waiting):
    odd = os.fsdecode(b"\xff\xfe")
    assert project.record(RECORD, ODD=odd) == ""
    assert project.record(RECORD, ODD=odd) == ""
    assert (len(waiting()), len(runs(project.store))) == (1, 2)


def test_another_environment_has_a_standby_of_its_own(project, runs, waiting):
    project.record(RECORD)
    project.record(RECORD, MLFLOW_HTTP_REQUEST_TIMEOUT="7")
    assert len(waiting()) == 2
    assert len(runs(project.store)) == 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_standby_that_was_killed_or_does_not_answer_costs_nothing(project, runs, waiting, how):
    project.record(RECORD)
    (place,) = waiting()
    process = owner(place)
    os.kill(process, how)
    try:
        assert project.record(RECORD) == ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert [run.info.status for run in runs(project.store)] == ["FINISHED"] * 2


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_that_others_may_enter_is_not_used(monkeypatch, tmp_path, mode):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"attndistill-{os.getuid()}"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(PermissionError, match="is not a folder of this user alone"):
        standby._place()


def test_a_link_in_the_folders_place_is_not_followed(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"attndistill-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        standby._place()


def test_without_room_for_a_socket_a_task_has_a_companion_of_its_own(project, runs, waiting):
    place = project.root / ("x" * 100)
    place.mkdir()
    assert project.record(RECORD, TMPDIR=str(place)) == ""
    assert (waiting(), len(runs(project.store))) == ([], 1)

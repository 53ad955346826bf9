"""One process at a time, with and without flock, and SIGTERM as an interrupt."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attndistill.core.ownership import ended_in_order, locked, owned

HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
if sys.argv[2] == "without":
    def flock(*_): raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
from attndistill.core.ownership import owned
with owned(Path(sys.argv[1]), "making these targets"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(directory: Path, flock: str) -> subprocess.Popen:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(directory), flock], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.fixture(params=["with", "without"])
def flock(request, monkeypatch) -> str:
    """Whether the file system has flock."""
    if request.param == "without":

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


def test_who_holds_a_directory_is_named_with_its_start_and_what_to_do(tmp_path, flock):
    holder = hold(tmp_path, flock)
    try:
        with pytest.raises(ValueError, match="is already making") as refused, owned(tmp_path, "making these targets"):
            pass
        assert re.fullmatch(
            rf"process {holder.pid} is already making these targets since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \(.*\); a "
            rf"killed `dvc` or shell leaves its stage running: .* or end it with `kill {holder.pid}`",
            str(refused.value),
        )
    finally:
        holder.kill()
        holder.communicate()


def test_a_directory_is_free_as_soon_as_its_owner_was_killed(tmp_path, flock):
    holder = hold(tmp_path, flock)
    holder.kill()
    holder.communicate()
    with owned(tmp_path, "making these targets"):
        pass


@pytest.mark.parametrize("record", ["", "4711", "[]", '{"pid": "x"}', None])
def test_an_owner_that_cannot_be_read_is_another_process(tmp_path, record):
    holder = hold(tmp_path, "with")
    try:
        (tmp_path / "owner").unlink() if record is None else (tmp_path / "owner").write_text(record)
        with pytest.raises(ValueError, match=r"^another process is already training this run \("):
            owned(tmp_path, "training this run").__enter__()
    finally:
        holder.kill()
        holder.communicate()


def test_a_pipe_in_the_place_of_an_owners_record_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "owner")
    with owned(tmp_path, "training this run"):
        assert json.loads((tmp_path / "owner").read_text())["pid"] == os.getpid()


def test_a_lock_is_held_once_and_free_again(tmp_path, flock):
    with locked(tmp_path / "lock"), pytest.raises(TimeoutError), locked(tmp_path / "lock"):
        pass
    with locked(tmp_path / "lock"):
        pass


def test_a_disk_that_cannot_be_written_is_no_lack_of_flock(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path / "lock"):
        pass


def test_sigterm_interrupts_a_block_once_and_the_cleaning_up_is_not_interrupted():
    cleaned = False
    with pytest.raises(KeyboardInterrupt), ended_in_order() as received:  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert (cleaned, received) == (True, [signal.SIGTERM])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


STAGE = """
import sys, time
from pathlib import Path
from attndistill.core.artifacts import replacing_directory
from attndistill import __main__, cli
def main():
    try:
        with replacing_directory(Path(sys.argv[1]) / "data") as directory:
            (directory / "part").touch()
            print("begun", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        return 130
cli.main = __main__.main = main
__main__.run()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_end_cleans_up_and_says_by_its_code_what_ended_it(tmp_path, number, code):
    stage = subprocess.Popen([sys.executable, "-c", STAGE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert stage.stdout.readline() == "begun\n"
    stage.send_signal(number)
    stage.communicate(timeout=300)
    assert (stage.returncode, list(tmp_path.iterdir())) == (code, [])

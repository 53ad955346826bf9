"""How a process of our own starts, ends and holds memory: each in a process of its own."""

import subprocess
import sys

import pytest


def _told(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert not done.stderr
    return done.stdout.strip()


def test_garbage_is_looked_for_from_where_the_work_begins_and_not_in_what_was_there() -> None:
    found = _told(
        "import gc\n"
        "from attndistill.core.process import begin_process, collect_from_here\n"
        "begin_process()\n"
        "print(gc.isenabled())\n"
        "collect_from_here()\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 1000)\n"
        "held = gc.get_freeze_count()\n"
        "later = [[] for _ in range(100)]\n"
        "collect_from_here()\n"
        "print(gc.get_freeze_count() == held)\n"
    )
    assert found.split() == ["False", "True", "True", "True"]


def test_what_was_asked_for_at_the_end_is_done_and_what_was_printed_is_written(tmp_path) -> None:
    written = tmp_path / "at the end"
    code = (
        "import atexit, pathlib, sys, threading, time\n"
        "from attndistill.core.process import end_process\n"
        f"atexit.register(pathlib.Path({str(written)!r}).write_text, 'done')\n"
        "print('printed', end='')\n"
        "sys.stderr.write('said')\n"
        "{thread}"
        "end_process(7)\n"
    )
    waited = "threading.Thread(target=lambda: (time.sleep(0.3), print(', later', end=''))).start()\n"
    for thread, printed in (("", "printed"), (waited, "printed, later")):
        written.unlink(missing_ok=True)
        command = [sys.executable, "-c", code.replace("{thread}", thread)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, printed, "said")
        assert written.read_text() == "done"


def test_what_runs_in_a_process_of_others_leaves_their_collector_alone() -> None:
    code = "import gc; from attndistill.core.process import collect_from_here; collect_from_here()"
    assert _told(f"{code}; print(gc.isenabled(), gc.get_freeze_count())") == "True 0"


@pytest.mark.parametrize(("keeping", "fresh"), [("keep_memory()", False), ("keep_memory(2**20)", True)])
def test_memory_that_was_freed_is_taken_again_without_asking_the_system(keeping: str, fresh: bool) -> None:
    """Of ten arrays of 64 MB, one after the other, each page is asked for once; by glibc's habit it is ten times."""
    pages = int(
        _told(
            "import resource, numpy\n"
            "from attndistill.core.process import keep_memory\n"
            f"{keeping}\n"
            "numpy.ones(2**23)\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "for _ in range(10): numpy.ones(2**23)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        )
    )
    assert (pages > 100) is fresh, pages


def test_a_command_that_is_no_stage_collects_from_its_beginning() -> None:
    code = (
        "import gc\n"
        "from attndistill import cli\n"
        "from attndistill.core.process import begin_process\n"
        "def handle(options, overrides): print(gc.isenabled())\n"
        "cli._show_config = handle\n"
        "begin_process()\n"
        "cli.main(['config'])\n"
    )
    assert _told(code) == "True"

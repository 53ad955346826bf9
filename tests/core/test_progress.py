"""Progress says what it knows, and never ends what it watches."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from attndistill.core import progress as module
from attndistill.core.progress import progress, say

WORK = """
import time
from attndistill.core import progress as module
module._LINE_EVERY = 0.0
module.say("begins")
module.say("begins", "stderr")
with module.progress("work", {total}, "steps") as update:
    for done in range(1, 2001):
        update(done)
{then}
open({path!r}, "w").write("whole")
"""


def shell(tmp_path, redirections: str, then: str = "", total: int = 2000) -> subprocess.CompletedProcess:
    script = tmp_path / "work.py"
    script.write_text(WORK.format(path=str(tmp_path / "result"), then=then, total=total))
    command = f"{sys.executable} {script} {redirections}"
    return subprocess.run(["bash", "-c", command], timeout=300, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "redirections",
    ["2>/dev/full", "2>&-", ">&- 2>&-", ">/dev/full 2>/dev/full", "2> >(head -c 1 >/dev/null)", "> >(true) 2> >(true)"],
)
def test_a_standard_error_that_nobody_takes_does_not_end_the_work_nor_change_its_code(tmp_path, redirections):
    assert shell(tmp_path, redirections).returncode == 0
    assert (tmp_path / "result").read_text() == "whole"


def test_a_standard_error_that_the_program_itself_has_closed_does_not_end_the_work(monkeypatch, tmp_path):
    for broken in (None, (tmp_path / "x").open("w")):
        if broken is not None:
            broken.close()
        monkeypatch.setattr(sys, "stderr", broken)
        monkeypatch.setattr(sys, "stdout", broken)
        with progress("work", 2, "steps") as update:
            update(1)
            update(2)
        say("done")


def test_a_terminal_that_goes_away_does_not_end_the_work(tmp_path):
    """The bar is drawn by a thread of its own, and once more when it ends."""
    screen, terminal = pty.openpty()
    script = tmp_path / "work.py"
    then = "with module.progress('more', 0, 'steps') as update:\n    time.sleep(1)\n    update(1)\n    time.sleep(1)"
    script.write_text(WORK.format(path=str(tmp_path / "result"), then=then, total=2000))
    environment = {**os.environ, "TERM": "xterm"}
    work = subprocess.Popen([sys.executable, script], stderr=terminal, stdout=terminal, env=environment)
    os.close(terminal)
    seen = b""
    while b"more" not in seen:
        seen += os.read(screen, 10_000)
    os.close(screen)
    assert work.wait(60) == 0
    assert (tmp_path / "result").read_text() == "whole"


def lines(capsys, monkeypatch, total: int, counts: list[int], first: int = 0) -> list[str]:
    monkeypatch.setattr(module, "_LINE_EVERY", 0.0)
    with progress("fetch", total, "MiB", first) as update:
        for done in counts:
            update(done)
    return capsys.readouterr().err.splitlines()


def test_a_count_without_a_known_end_is_said_as_it_grows_and_once_more_at_its_end(capsys, monkeypatch):
    said = lines(capsys, monkeypatch, 0, [0, 3, 120])
    assert [re.sub(r"[\d.]+/s", "N/s", line) for line in said] == [
        "fetch: 0 MiB, N/s",
        "fetch: 3 MiB, N/s",
        "fetch: 120 MiB, N/s",
        "fetch: 120 MiB, N/s, 0 s",
    ]


def test_a_count_with_a_known_end_says_what_is_left_and_ends_once(capsys, monkeypatch):
    said = lines(capsys, monkeypatch, 4, [1, 3, 4, 4])
    assert [line.split(",")[0] for line in said] == ["fetch: 1/4 MiB", "fetch: 3/4 MiB", "fetch: 4/4 MiB"]
    assert [line.split(" ")[-1] for line in said] == ["left", "left", "s"]


def test_work_whose_first_unit_takes_long_is_not_silent_and_says_nothing_once_it_is_over(capsys, monkeypatch):
    monkeypatch.setattr(module, "_SILENT", 0.05)
    with progress("probe teacher", 1, "models") as update:
        time.sleep(0.2)
        update(1)
    time.sleep(0.15)
    *going_on, last = capsys.readouterr().err.splitlines()
    assert going_on
    assert all(line == "probe teacher: 0/1 models, 0.0/s, goes on since 0 s" for line in going_on)
    assert last.startswith("probe teacher: 1/1 models, ")


def test_a_rate_that_is_zero_foresees_no_end(capsys, monkeypatch):
    assert "left" not in lines(capsys, monkeypatch, 4, [2], first=2)[0]
    assert lines(capsys, monkeypatch, 4, [], first=4) == []

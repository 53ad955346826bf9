"""What is promised, the test that shows it and how often: `make reliability` runs them and writes docs/reliability.md.

The page holds counts alone, so the same code gives the same page on any machine.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from attndistill.core.artifacts import write_text

PAGE = Path("docs/reliability.md")
Counts = Mapping[str, int]


class Promise(NamedTuple):
    """One line of the table: `tests` are pytest's node ids, `counted` the beginning of properties that are added up."""

    text: str
    tests: str
    unit: str = "cases"
    counted: str = ""


_NOT_PASSED = {"failure", "error", "skipped"}
_FUZZ, _KILLED = "tests/fuzz/test_every_file.py", "tests/stages/test_killed_stages.py"
_LOOP, _STUDY = "tests/training/test_loop.py", "tests/study/test_pages.py"
_REFUSED, _SENT = "tests/stages/test_what_stages_refuse.py", "tests/tracking/test_delivery.py"
PROMISES = (
    Promise("A malformed file gives one line and exit code 2, in 2 s and 1 GB; nothing is run or written", _FUZZ,
            "malformed inputs", "malformed: "),
    Promise("A stage killed (-9) at any rename and started again: the same bytes, nothing left", _KILLED,
            "killed runs", "killed: "),
    Promise("A write killed at any call to the file system leaves the old or the new",
            "tests/core/test_artifacts.py::test_a_write_killed_anywhere_leaves_the_old_or_the_new_and_the_next_one_"
            "leaves_nothing_else"),
    Promise("Damaged data, weights and targets are found before anything is computed", _REFUSED),
    Promise("Prepared data that were changed are refused by file and field", "tests/data/test_damaged_data.py"),
    Promise("A resume checkpoint that is damaged or of another run is refused",
            "tests/training/test_checkpoint.py tests/training/test_state.py"),
    Promise("A loss that one rank alone finds bad ends all ranks and ruins no checkpoint",
            f"{_LOOP}::test_a_loss_that_one_rank_alone_finds_bad_ends_all_ranks_and_ruins_no_checkpoint"),
    Promise("A fault of the machine (memory, handles, disk) is no fault of a picture",
            "tests/core/test_reading.py::test_the_machines_faults_are_told_from_a_files"),
    Promise("Nothing in a checkpoint runs; no hostile one costs memory", "tests/models/teachers/test_hostile_files.py"),
    Promise("Passwords and tokens are neither printed nor kept", "tests/tracking/test_secrets.py"),
    Promise("Names reach no terminal, chart or cell raw", "tests/core/test_words.py"),
    Promise("No companion outlives its task; what was not sent is said", _SENT),
    Promise("The dashboard answers to its own names and pages alone", f"{_STUDY} -k foreign"),
)  # fmt: skip


def main() -> int:
    """Run every test of the table and write the page; 1 where one fails, and the page stays."""
    rows = []
    for promise in PROMISES:
        print(promise.text, file=sys.stderr, flush=True)
        passed, counts = run(promise.tests.split())
        if not passed:
            return 1
        number = sum(counts[key] for key in counts if key.startswith(promise.counted)) if promise.counted else passed
        rows.append((promise, number, counts))
    write_text(PAGE, page(rows))
    return 0


def run(words: Sequence[str]) -> tuple[int, Counts]:
    """Tests that passed, and what they counted; 0 where one failed, whose words are printed."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", *words, "-n", "2", f"--junitxml={report}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(done.stdout, file=sys.stderr)
            return 0, {}
        return counted(report.read_text(encoding="utf-8"))


def counted(report: str) -> tuple[int, Counts]:
    """Of pytest's report: cases that passed, and the properties that they recorded."""
    root = ElementTree.fromstring(report)
    passed = [case for case in root.iter("testcase") if not {part.tag for part in case} & _NOT_PASSED]
    found: dict[str, int] = {}
    for entry in root.iter("property"):
        if str(entry.get("value")).isdecimal():
            found[str(entry.get("name"))] = int(str(entry.get("value")))
    return len(passed), found


def page(rows: Sequence[tuple[Promise, int, Counts]]) -> str:
    """The page: a table of promises, then every kind of file and every stage."""
    lines = ["# What is promised, and what shows it", "", _HEAD, ""]
    lines += ["| promise | tests | figure |", "|---|---|---|"]
    for promise, number, _ in rows:
        names = ", ".join(f"`{word.removeprefix('tests/')}`" for word in promise.tests.split() if "/" in word)
        lines.append(f"| {promise.text} | {names} | {number:,} {promise.unit} |")
    for title, start in (
        ("Malformed inputs by kind of file", "malformed: "),
        ("Renames at which a run was killed", "killed: "),
    ):
        counts = {
            key.removeprefix(start): value
            for _, _, all_ in rows
            for key, value in all_.items()
            if key.startswith(start)
        }
        lines += [
            "",
            f"## {title}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in counts.items()),
        ]
    return "\n".join([*lines, ""])


_HEAD = """`make reliability` runs these tests and writes this page; it holds counts alone. A figure is what was tried,
and all of it ended as promised: one that does not ends the command, and the page stays as it was."""

if __name__ == "__main__":
    sys.exit(main())

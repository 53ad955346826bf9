"""What is promised, the test that shows it and how often: `make reliability` runs them and writes docs/reliability.md.

The page holds counts alone, so the same code gives the same page on any machine.
"""

import signal
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
_LOOP, _TRIALS, _STUDY = "tests/training/test_loop.py", "tests/study/test_trials.py", "tests/study/test_pages.py"
_REFUSED, _SENT = "tests/stages/test_what_stages_refuse.py", "tests/tracking/test_delivery.py"
_OWNED, _WRITTEN = "tests/core/test_ownership.py", "tests/core/test_artifacts.py"
PROMISES = (
    Promise("A malformed file gives one line and exit code 2, in 2 s and 1 GB; nothing is run or written", _FUZZ,
            "malformed inputs", "malformed: "),
    Promise("A name from a file is no path; a folder within an experiment is none",
            "tests/config/test_refusals.py::test_what_lies_within_an_experiment_is_no_experiment_whatever_it_holds "
            "tests/study/test_damaged_files.py::test_a_study_whose_name_is_not_letters_digits_dash_and_underscore_is_"
            "refused"),
    Promise("A stage killed (-9) at any rename and started again: the same bytes, nothing left", _KILLED,
            "killed runs", "killed: "),
    Promise("A write killed at any call to the file system leaves the old or the new",
            f"{_WRITTEN}::test_a_write_killed_anywhere_leaves_the_old_or_the_new_and_the_next_one_leaves_nothing_else"),
    Promise("`kill` ends a command as Ctrl-C does: it cleans up, and its code says what ended it",
            f"{_OWNED}::test_sigterm_interrupts_a_block_once_and_the_cleaning_up_is_not_interrupted "
            f"{_OWNED}::test_a_command_that_is_told_to_end_cleans_up_and_says_by_its_code_what_ended_it"),
    Promise("A loss that one rank alone finds bad ends all ranks and ruins no checkpoint",
            f"{_LOOP}::test_a_loss_that_one_rank_alone_finds_bad_ends_all_ranks_and_ruins_no_checkpoint"),
    Promise("Weights that are not finite are never saved; in a study they fail one trial",
            f"{_LOOP}::test_weights_that_are_not_finite_are_never_saved_and_name_step_and_rate "
            f"{_TRIALS}::test_a_rate_at_which_the_only_step_ends_infinite_fails_its_trial_alone_with_a_line"),
    Promise("Values beyond float16's range are counted in one line",
            "tests/test_targets.py::test_values_that_are_cut_to_float16_are_counted_in_one_line"),
    Promise("A resume checkpoint that is damaged or of another run is refused",
            "tests/training/test_checkpoint.py tests/training/test_state.py"),
    Promise("A fault of the machine (memory, handles, disk) is no fault of a picture",
            "tests/core/test_reading.py::test_the_machines_faults_are_told_from_a_files tests/doors/test_asking_about_"
            "photos.py::test_a_fault_of_the_machine_is_said_as_such_and_leaves_no_photo_out"),
    Promise("Passwords and tokens are neither printed nor kept", "tests/tracking/test_secrets.py "
            f"{_SENT}::test_no_password_is_printed_or_kept "
            "tests/tracking/test_git.py::test_files_whose_names_say_secret_are_named_and_left_out"),
    Promise("Nothing in a checkpoint runs; no hostile one costs memory", "tests/models/teachers/test_hostile_files.py"),
    Promise("Damaged weights and targets are found before anything is computed", _REFUSED),
    Promise("Prepared data that were changed are refused by file and field", "tests/data/test_damaged_data.py"),
    Promise("Names reach no terminal, chart, page or cell raw", "tests/core/test_words.py "
            "tests/report/test_what_a_report_says.py::test_hostile_labels_classes_and_features_are_shown_as_text "
            "tests/report/test_what_a_report_says.py::test_a_dollar_in_a_label_is_no_formula_in_any_chart"),
    Promise("No companion outlives its task; no point is lost or doubled; what was not sent is said", _SENT),
    Promise("A standard error that nobody takes ends no work", "tests/core/test_progress.py"),
    Promise("The dashboard answers to its own names and pages alone",
            f"{_STUDY}::test_a_request_under_a_foreign_host_is_refused_and_deletes_nothing "
            f"{_STUDY}::test_a_request_from_a_foreign_page_is_refused_and_deletes_nothing"),
    Promise("Clean clones end with the same dvc.lock, whatever order DVC picks, also from its cache of runs",
            "tests/drivers/test_dvc.py::test_another_clean_clone_ends_with_the_same_lock_and_the_same_results "
            "tests/drivers/test_dvc.py::test_a_lock_made_anew_from_dvcs_cache_of_runs_has_the_same_entries"),
    Promise("A stage that a killed `dvc` left running is named by its process to the next one",
            f"{_OWNED}::test_who_holds_a_directory_is_named_with_its_start_and_what_to_do"),
)  # fmt: skip


def main() -> int:
    """Run every test of the table and write the page; 1 where one fails, and the page stays."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored by what it starts with &
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
    lines += [f"{line_of(promise)}{number:,} {promise.unit} |" for promise, number, _ in rows]
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
            *(f"| {key} | {value} |" for key, value in sorted(counts.items())),  # test processes end in any order
        ]
    return "\n".join([*lines, ""])


def line_of(promise: Promise) -> str:
    """A promise's line in the table, without its figure."""
    names = ", ".join(f"`{word.removeprefix('tests/')}`" for word in promise.tests.split())
    return f"| {promise.text} | {names} | "


_HEAD = """`make reliability` runs these tests and writes this page; it holds counts alone. A figure is what was tried,
and all of it ended as promised: one that does not ends the command, and the page stays as it was."""

if __name__ == "__main__":
    sys.exit(main())

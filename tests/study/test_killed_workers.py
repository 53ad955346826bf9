"""Real processes, really killed: no trial is lost, and a trial goes on from its checkpoint."""

import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState
from toy_project import note_of

from attndistill import runs
from attndistill.study import lost
from attndistill.study.commands import run_studies
from attndistill.study.lost import heartbeat, reclaim, sign
from attndistill.study.search import read_search
from attndistill.study.storage import GRACE
from attndistill.study.studies import load_study, prepare_study, trials_of_the_file

pytestmark = pytest.mark.drivers

LONG = ("--runtime.checkpoint_seconds", "0", "--distill.recipe.epochs", "12")
OVERRIDES = {"runtime.checkpoint_seconds": 0, "distill.recipe.epochs": 12}


def study_of(project, path: Path, address: str | None, overrides: dict | None = None):
    search = read_search(path, project.experiment(), overrides or {}, address)
    return search, load_study(search)


def steps_saved(project) -> int:
    for path in checkpoints(project):
        return int(torch.load(path, weights_only=True)["state"]["step"])
    return 0


def checkpoints(project) -> list[Path]:
    return list((project.root / ".work/study").glob("digits-*/*/checkpoint/*/checkpoint.pt"))


def wait_for(condition, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def words(path: Path, address: str | None, *more: str) -> list[str]:
    place = [] if address is None else ["--storage", address]
    return ["study", str(path), *LONG, *place, *more]


def ended(study) -> list[TrialState]:
    """States of the trials that the file asks for."""
    return [trial.state for trial in trials_of_the_file(study)]


@pytest.mark.parametrize("address", [None, "mine.journal"], ids=["sqlite", "journal"])
def test_a_killed_study_goes_on_with_the_same_settings_from_the_same_step(project, address, monkeypatch):
    path = project.write(trials=2)
    process = project.start(*words(path, address))
    wait_for(lambda: steps_saved(project) >= 3, process)
    process.kill()
    process.wait()
    process.stdout.close()
    saved = steps_saved(project)
    begun: list[int] = []
    batches = runs.training_batches
    monkeypatch.setattr(
        runs,
        "training_batches",
        lambda *given, first_step, **more: begun.append(first_step) or batches(*given, first_step=first_step, **more),
    )
    run_studies([str(path)], project.experiment(), OVERRIDES, storage=address, artifacts=None, workers=1)
    _, study = study_of(project, path, address, OVERRIDES)
    assert ended(study) == [TrialState.COMPLETE] * 2
    killed, retried = study.trials[0], study.trials[2]
    assert killed.state == TrialState.FAIL
    assert retried.params == killed.params
    assert sorted(begun) == [0, saved]
    assert sorted(retried.intermediate_values) == list(range(1, 13))


def kill_a_worker_of_two(project, address: str | None) -> None:
    path = project.write(trials=2)
    process = project.start(*words(path, address, "-j", "2"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def workers() -> list[int]:
        names = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children.read_text().split()}
        return [pid for pid, command in names.items() if "attndistill\0study" in command]

    wait_for(lambda: steps_saved(project) >= 3 and len(workers()) == 2, process)
    os.kill(workers()[0], signal.SIGKILL)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    _, study = study_of(project, path, address, OVERRIDES)
    assert ended(study) == [TrialState.COMPLETE] * 2
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(failed) == 1
    retried = next(trial for trial in study.trials if trial.system_attrs.get("retry_history") == [failed[0].number])
    assert failed[0].params.items() <= retried.params.items()
    assert "its worker was lost; it waits again" in note_of(study, failed[0])


@pytest.mark.slow  # the next one is the same on a server
def test_one_of_two_workers_is_killed_and_no_trial_is_lost(project):
    kill_a_worker_of_two(project, None)


def test_one_of_two_workers_on_a_real_postgresql_is_killed_and_no_trial_is_lost(project, database):
    kill_a_worker_of_two(project, database)


def test_two_commands_that_start_at_once_run_each_trial_once(project):
    path = project.write(trials=3)
    both = [project.start("study", str(path)) for _ in range(2)]
    printed = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    _, study = study_of(project, path, None)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    assert sum(text.count(": complete") for text in printed) == 3


@pytest.fixture
def begun(project, monkeypatch):
    """A trial that somebody on another machine has begun: its study, storage and number in the storage."""

    def begin(address: str | None):
        search = read_search(project.write(), project.experiment(), {}, address)
        study = prepare_study(search)
        trial = study.ask()
        sign(trial)
        monkeypatch.setattr(lost, "_machine", lambda: "another")
        return study, search.place, trial._trial_id

    return begin


def check_waits_again(study) -> None:
    assert study.trials[-1].system_attrs["fixed_params"] == study.trials[0].system_attrs["fixed_params"]
    assert study.trials[-1].state == TrialState.WAITING


def test_a_worker_on_another_machine_is_lost_when_its_sign_of_life_beside_the_journal_is_old(begun):
    study, place, trial_id = begun("mine.journal")
    with heartbeat(place, trial_id):
        assert reclaim(study, place) == []
        heart = lost._heart(place, trial_id)
        old = time.time() - GRACE - 5
        os.utime(heart, (old, old))
        assert reclaim(study, place) == [0]
    assert reclaim(study, place) == []
    check_waits_again(study)


def test_a_worker_on_another_machine_is_lost_when_its_heartbeat_in_the_database_is_old(begun, project):
    study, place, trial_id = begun(None)
    study._storage.record_heartbeat(trial_id)
    assert reclaim(study, place) == []
    with closing(sqlite3.connect(project.root / ".work/study/studies.db")) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', ?)", (f"-{GRACE + 5} seconds",))
    assert reclaim(study, place) == [0]
    assert reclaim(study, place) == []
    check_waits_again(study)


def test_a_process_number_means_nothing_in_another_container_of_the_same_host():
    assert str(Path("/proc/self/ns/pid").readlink()) in lost._machine.__wrapped__()


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGTERM), (2, signal.SIGINT)], ids=["kill", "ctrl-c"])
def test_workers_sent_away_in_order_give_their_trials_back_at_once(project, workers, number):
    path = project.write(trials=2)
    process = project.start(*words(path, None, "-j", str(workers)))
    wait_for(lambda: len(checkpoints(project)) == workers, process)
    os.killpg(process.pid, number)  # as a terminal does: the command and its workers
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, printed
    _, study = study_of(project, path, None, OVERRIDES)
    waiting = [trial for trial in study.trials if trial.state == TrialState.WAITING]
    assert [trial.state for trial in study.trials if trial not in waiting] == [TrialState.FAIL] * workers
    assert len(waiting) == 2
    assert {trial.system_attrs.get("counted_retries", 0) for trial in waiting} == {0}

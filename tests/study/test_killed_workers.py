"""Real processes, really killed: no trial is lost, and a trial goes on from its checkpoint."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from attndistill.stages import runs
from attndistill.study import storage
from attndistill.study.commands import run_studies
from attndistill.study.plan import read_plan
from attndistill.study.storage import Place, heartbeat, reclaim, sign
from attndistill.study.trial import Search
from attndistill.study.worker import load_study, prepare_study

pytestmark = pytest.mark.drivers

LONG = ("--runtime.checkpoint_seconds", "0", "--distill.recipe.epochs", "12")
OVERRIDES = {"runtime.checkpoint_seconds": 0, "distill.recipe.epochs": 12}


def study_of(project, path: Path, address: str | None, overrides: dict | None = None):
    plan = read_plan(path, project.experiment(), overrides or {})
    search = Search.of(plan, Place.of(project.root, address, None))
    return search, load_study(search)


def steps_saved(project) -> int:
    for path in (project.root / ".work/study").glob("digits-*/*/checkpoint/*/checkpoint.pt"):
        return int(torch.load(path, weights_only=True)["state"]["step"])
    return 0


def wait_for(condition, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def words(path: Path, address: str | None, *more: str) -> list[str]:
    place = [] if address is None else ["--storage", address]
    return ["study", str(path), "--experiment", "experiments/digits", *LONG, *place, *more]


def ended(study) -> list[TrialState]:
    """States of the trials of the plan: those that were run again are left out."""
    again = {number for trial in study.trials for number in trial.system_attrs.get("retry_history", [])}
    return [trial.state for trial in study.trials if trial.number not in again]


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
    path = project.write(trials=3)
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
    assert ended(study) == [TrialState.COMPLETE] * 3
    lost = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(lost) == 1
    retried = next(trial for trial in study.trials if trial.system_attrs.get("retry_history") == [lost[0].number])
    assert lost[0].params.items() <= retried.params.items()


def test_one_of_two_workers_is_killed_and_no_trial_is_lost(project):
    kill_a_worker_of_two(project, None)


@pytest.fixture
def database(tmp_path: Path):
    """The address of a PostgreSQL server of its own, from the system's packages."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL server below /usr/lib/postgresql (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg, the PostgreSQL client, is not installed")
    account = {"user": "postgres"} if os.geteuid() == 0 else {}  # the server refuses to run as root
    home = Path("/tmp") / f"attndistill-postgresql-{os.getpid()}"  # tmp_path is closed to other accounts
    home.mkdir()
    if account:
        shutil.chown(home, "postgres")

    def server(*command: str) -> None:
        done = subprocess.run([str(found[-1] / command[0]), *command[1:]], cwd=home, capture_output=True, **account)
        assert done.returncode == 0, done.stderr.decode()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server("initdb", "-D", str(home / "data"), "-A", "trust", "-U", "study", "--no-sync")
    options = f"-F -h 127.0.0.1 -p {port} -k {home}"
    server("pg_ctl", "-D", str(home / "data"), "-o", options, "-l", str(home / "log"), "-w", "start")
    yield f"postgresql+psycopg://study@127.0.0.1:{port}/postgres"
    server("pg_ctl", "-D", str(home / "data"), "-m", "immediate", "-w", "stop")
    shutil.rmtree(home)


@pytest.mark.slow
def test_one_of_two_workers_on_a_real_postgresql_is_killed_and_no_trial_is_lost(project, database):
    kill_a_worker_of_two(project, database)


def test_two_commands_that_start_at_once_run_each_trial_once(project):
    path = project.write(trials=3)
    both = [project.start("study", str(path), "--experiment", "experiments/digits") for _ in range(2)]
    printed = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    _, study = study_of(project, path, None)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    assert sum(text.count(": complete") for text in printed) == 3


def test_a_worker_on_another_machine_is_lost_when_its_sign_of_life_beside_the_journal_is_old(project, monkeypatch):
    plan = read_plan(project.write(), project.experiment(), {})
    search = Search.of(plan, Place.of(project.root, "mine.journal", None))
    study = prepare_study(search)
    trial = study.ask()
    sign(trial)
    monkeypatch.setattr(storage, "_machine", lambda: "another")
    with heartbeat(search.place, trial._trial_id):
        assert reclaim(study, search.place) == []
        heart = storage._heart(search.place, trial._trial_id)
        old = time.time() - storage.GRACE - 5
        os.utime(heart, (old, old))
        assert reclaim(study, search.place) == [0]
    assert reclaim(study, search.place) == []
    assert study.trials[-1].system_attrs["fixed_params"] == study.trials[0].system_attrs["fixed_params"]
    assert study.trials[-1].state == TrialState.WAITING

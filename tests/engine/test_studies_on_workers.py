"""A study whose workers are an engine's tasks: no trial is lost, whoever is killed."""

import os
import shutil
import signal
import time
from pathlib import Path

import postgresql
import pytest
from engine_project import EngineProject, write
from optuna.trial import TrialState

from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item
from attndistill.study.search import read_search
from attndistill.study.studies import load_study, trials_of_the_file

pytestmark = pytest.mark.drivers


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A toy project in which data, teacher and targets exist."""
    project = EngineProject(tmp_path_factory.mktemp("taught"))
    write(project.root, {"seeds": [0]})
    for stage, item in (("prepare", ""), ("pretrain", "teacher"), ("targets", "")):
        run_stage(project.experiment(), STAGES[stage], Item(item), {})
    return project


@pytest.fixture
def database():
    lacking = postgresql.lacks()
    if lacking is not None:
        (pytest.fail if postgresql.expected() else pytest.skip)(lacking)
    with postgresql.server() as address:
        yield address


def test_a_study_on_postgresql_with_two_workers_of_an_engine_loses_no_trial_when_one_is_killed(
    taught, database, tmp_path
):
    shutil.copytree(taught.root, tmp_path / "project")
    project = EngineProject(tmp_path / "project")
    path = project.write(trials=4)
    process = project.start("study", str(path), "--storage", database, "--on", str(project.on()))

    def trainings() -> list[Path]:
        return list((project.root / ".work/study").glob("digits-*/*/checkpoint/*/checkpoint.pt"))

    def owners() -> list[int]:
        tasks = (project.root / ".work/engine").glob("digits-*/tasks/*.json")
        return [
            int(text.partition('"place":"')[2].partition(":")[2].partition('"')[0])
            for text in map(Path.read_text, tasks)
        ]

    deadline = time.monotonic() + 300
    while not (trainings() and len(owners()) == 2):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(owners()[0], signal.SIGKILL)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    study = load_study(read_search(path, project.experiment(), {}, database))
    # a worker may have found the last waiting trial taken, and left one that the file does not ask for
    assert [trial.state for trial in trials_of_the_file(study)] == [TrialState.COMPLETE] * 4
    status = project.run("status")
    assert "2 of 2 tasks finished" in status
    assert project.processes() == []


def test_several_machines_are_refused_a_sqlite_study(taught, monkeypatch):
    from attndistill.engine import machines
    from attndistill.study.commands import run_studies

    monkeypatch.setattr(machines, "asked", lambda *words: "toy\n")
    monkeypatch.setattr(machines, "own_file_system", lambda folder: None)
    path, on = taught.write(), taught.on(executor="slurm", partition="toy", time="00:10:00")
    with pytest.raises(ValueError, match="--on: several machines do not share sqlite; allowed: --storage with"):
        run_studies([str(path)], taught.experiment(), {}, storage=None, artifacts=None, workers=None, on=str(on))

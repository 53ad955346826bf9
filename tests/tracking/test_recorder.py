import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from attndistill.tracking import Recorder, recorder
from attndistill.tracking.spool import Spool


class Silent:
    """Stands for the companion where only the journal is looked at."""

    @staticmethod
    def follow(spool: Path) -> None:
        pass

    @staticmethod
    def leave() -> None:
        pass


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "Companion", Silent)
    for name in ("DVC_ROOT", "ATTNDISTILL_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return lambda **more: Recorder.open(
        root=tmp_path, command="distill", name="d", experiment="digits", config={}, argv=[], **more
    )


def journal(run: Recorder) -> list[dict]:
    return [event for event, _ in Spool(run.spool.folder).events(0)]


def test_recording_imports_neither_torch_nor_mlflow():
    code = "import sys, attndistill.tracking; print(sorted({'torch', 'mlflow', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_events_are_in_the_journal_as_soon_as_they_are_said(record):
    with record() as run:
        run.metrics({"loss": 0.5}, step=3)
        (event,) = journal(run)
        assert (event["kind"], event["values"], event["step"]) == ("metrics", {"loss": 0.5}, 3)
    assert journal(run)[-1]["status"] == "FINISHED"


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (ValueError("no"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(2), "FAILED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_an_exception_ends_the_run_and_goes_on_its_way(record, problem, status):
    with pytest.raises(type(problem)), record() as run:
        raise problem
    assert journal(run)[-1]["status"] == status


def test_a_kept_artifact_does_not_change_with_its_original(record, tmp_path):
    picture = tmp_path / "picture.txt"
    picture.write_text("before")
    with record() as run:
        run.artifact(picture, folder="attention")
        picture.write_text("after")
    kept = run.spool.folder / next(event for event in journal(run) if event["kind"] == "artifact")["path"]
    assert kept.read_text() == "before"
    assert kept.name == "picture.txt"


def test_a_big_artifact_is_linked_and_survives_a_replacement(record, tmp_path, monkeypatch):
    monkeypatch.setattr("attndistill.tracking.spool.COPY_AT_MOST", 3)
    weights = tmp_path / "weights.bin"
    weights.write_text("before")
    with record() as run:
        run.artifact(tmp_path / "weights.bin")
        (tmp_path / "new").write_text("after")
        (tmp_path / "new").replace(weights)
    kept = run.spool.folder / "files" / "0" / "weights.bin"
    assert kept.read_text() == "before"


def test_a_switched_off_recording_writes_nothing(record, tmp_path):
    with record(enabled=False) as run:
        run.metrics({"loss": 1.0}, step=0)
        run.artifact(tmp_path)
        run.tag("a", "b")
        run.dataset(name="digits", digest="0", context="training")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_no_failure(record, capsys, monkeypatch):
    monkeypatch.setattr(recorder, "_told", [])
    with record() as run:
        run.spool.journal.mkdir()  # nobody can append to a folder
        run.metrics({"loss": 1.0}, step=0)
        run.metrics({"loss": 0.5}, step=1)
        run.artifact(Path("does/not/exist"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracking: this run is not recorded in full (IsADirectoryError")


def test_a_torn_line_is_not_an_event(record):
    with record() as run:
        run.tag("a", "b")
        whole = run.spool.journal.read_bytes()
        run.spool.journal.write_bytes(whole + b'{"kind": "metr')
        ((_, offset),) = run.spool.events(0)
        assert offset == len(whole)


def test_a_line_torn_by_a_kill_costs_the_next_line_and_no_more(record):
    with record() as run:
        run.tag("a", "b")
        with run.spool.journal.open("a") as file:
            file.write('{"kind": "metr')  # a child was killed
        run.tag("c", "d")
        run.tag("e", "f")
        assert [event["key"] for event in journal(run)] == ["a", "e"]


def test_a_forked_child_tells_its_curves_and_nothing_else_of_the_run(record):
    def child() -> None:
        run.metrics({"seed-7/loss": 0.5}, step=1)
        run.tag("of", "the child")

    with record() as run:
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        (event,) = journal(run)
    assert event["values"] == {"seed-7/loss": 0.5}


def test_an_inner_recording_names_the_outer_one(record):
    with record() as outer, record() as inner:
        told = json.loads((inner.spool.folder / "run.json").read_text())
    assert told["enclosing"] == outer.spool.folder.name


def test_a_copy_made_by_dvc_keeps_its_spool_in_the_original_repository(record, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "original"))
    with record() as run:
        assert run.spool.folder.parent == tmp_path / "original" / ".work" / "tracking"

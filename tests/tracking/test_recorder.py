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
    common = {"root": tmp_path, "command": "distill", "name": "d", "experiment": "digits", "config": {}, "argv": []}
    return lambda **more: Recorder.open(**{**common, **more})


def journal(run: Recorder) -> list:
    return [event for event, _ in Spool(run.spool.folder).events(0)]


def test_recording_imports_neither_torch_nor_mlflow():
    code = "import sys, attndistill.tracking; print(sorted({'torch', 'mlflow', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_events_are_in_the_journal_as_soon_as_they_are_said(record):
    with record() as run:
        run.metrics({"loss": 0.5}, step=3)
        (event,) = journal(run)
        assert (event.kind, event.values, event.step) == ("metrics", {"loss": 0.5}, 3)
    assert journal(run)[-1].status == "FINISHED"


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
    assert journal(run)[-1].status == status


def test_a_kept_artifact_does_not_change_with_its_original(record, tmp_path):
    picture = tmp_path / "picture.txt"
    picture.write_text("before")
    with record() as run:
        run.artifact(picture, folder="attention")
        picture.write_text("after")
    kept = run.spool.folder / next(event for event in journal(run) if event.kind == "artifact").path
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
        assert [event and event.key for event in journal(run)] == ["a", None, "e"]


def test_a_forked_child_tells_its_curves_and_nothing_else_of_the_run(record):
    def child() -> None:
        run.metrics({"seed-7/loss": 0.5}, step=1)
        run.tag("of", "the child")

    with record() as run:
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        (event,) = journal(run)
    assert event.values == {"seed-7/loss": 0.5}


def test_an_inner_recording_names_the_outer_one(record):
    with record() as outer, record() as inner:
        told = json.loads((inner.spool.folder / "run.json").read_text())
    assert told["enclosing"] == outer.spool.folder.name


def test_a_copy_made_by_dvc_keeps_its_spool_in_the_original_repository(record, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "original"))
    with record() as run:
        assert run.spool.folder.parent == tmp_path / "original" / ".work" / "tracking"


def test_a_figure_is_kept_by_seed_of_the_runs_own_item_or_of_another(record, tmp_path):
    with record(name="probe@attndistill") as run:
        run.figures({"knn_top1": {0: 51.0, 7: float("nan")}})
        run.figures({"knn_top1": {0: 88}}, item="teacher")
        own, other = journal(run)
    assert (own.item, own.values["knn_top1"][0], list(own.values["knn_top1"])) == ("attndistill", 51.0, [0, 7])
    assert (other.item, other.values) == ("teacher", {"knn_top1": {0: 88.0}})


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2>&1 >/dev/null | true"])
def test_a_stderr_that_takes_no_words_ends_no_training(tmp_path, stderr):
    (tmp_path / ".work").write_text("no folder can be made here")
    body = (
        "import sys, time; from pathlib import Path; from attndistill.tracking import Recorder; time.sleep(0.5)\n"
        "with Recorder.open(root=Path.cwd(), command='a', name='a', experiment='a', config={}, argv=[]) as run:\n"
        "    run.metrics({'loss': 1.0}, step=0); run.metrics({'loss': None}, step=0); run.figures({'a': None})\n"
        "Path('done').touch()"
    )
    subprocess.run(["sh", "-c", f'"$0" -c "$1" {stderr}', sys.executable, body], cwd=tmp_path, timeout=300)
    assert (tmp_path / "done").exists()


def test_a_disk_that_fills_in_the_middle_of_a_line_costs_that_line(record, monkeypatch):
    write = recorder.os.write
    with record() as run:
        monkeypatch.setattr(recorder.os, "write", lambda handle, line: write(handle, line[:9]))
        run.tag("a", "b")
        monkeypatch.setattr(recorder.os, "write", write)
        run.tag("c", "d")
        assert [event and event.key for event in journal(run)] == [None, "c"]


def test_a_stage_of_an_experiment_that_is_a_dvc_project_of_its_own_keeps_its_state_with_the_others(
    record, tmp_path, monkeypatch
):
    (tmp_path / "params.yaml").touch()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "experiments" / "mine"))
    with record() as run:
        assert run.spool.folder.parent == tmp_path / ".work" / "tracking"
        assert run.spool.description().tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"

"""Which working tree a recorded run reads."""

from pathlib import Path

from attndistill.tracking.spool import Description


def described(root: Path, folder: Path) -> Description:
    given = dict.fromkeys(("id", "command", "name", "experiment", "own_uri", "tracking_uri", "process_started"), "x")
    more = {"config": {}, "argv": [], "inputs": [], "started_ms": 0, "pid": 1, "host": "h", "user": "u"}
    return Description(**given, **more, root=str(root), folder=str(folder))


def test_a_run_in_a_temporary_copy_of_dvc_reads_that_copy(tmp_path):
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    (copy / ".git").mkdir(parents=True)
    (copy / "experiments" / "mine").mkdir(parents=True)
    assert described(tmp_path, copy / "experiments" / "mine").tree == copy
    assert described(tmp_path, copy).tree == copy


def test_any_other_run_reads_the_project(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "experiments" / "mine").mkdir(parents=True)
    assert described(tmp_path, tmp_path / "experiments" / "mine").tree == tmp_path
    assert described(tmp_path, tmp_path.parent).tree == tmp_path

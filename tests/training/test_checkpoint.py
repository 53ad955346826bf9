"""Checkpoints: whole or absent, of this run only, owned by one process."""

import multiprocessing

import pytest
import torch

from attndistill.training.checkpoint import Checkpoint


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    checkpoint = Checkpoint(tmp_path, "a" * 64)
    assert checkpoint.load() is None
    checkpoint.save({"step": 3, "task": {"w": torch.arange(3.0)}, "history": {"loss": [[1, 0.1]]}})
    state = checkpoint.load()
    assert (state["step"], state["history"]) == (3, {"loss": [[1, 0.1]]})
    assert torch.equal(state["task"]["w"], torch.arange(3.0))
    assert checkpoint.steps_done() == 3


def test_another_runs_checkpoint_is_refused_and_both_digests_are_named(tmp_path):
    Checkpoint(tmp_path, "a" * 64).save({"step": 3})
    with pytest.raises(ValueError, match=r"its digest is aaaaaaaaaaaa, this run's is bbbbbbbbbbbb"):
        Checkpoint(tmp_path, "b" * 64).load()
    assert Checkpoint(tmp_path, "a" * 64).load() == {"step": 3}  # and nothing was lost


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_a_broken_or_hostile_checkpoint_is_refused_without_running_code(tmp_path, content):
    checkpoint = Checkpoint(tmp_path, "a" * 64)
    checkpoint.path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        checkpoint.load()


def test_an_interrupted_save_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, "a" * 64)
    checkpoint.save({"step": 1})

    def half_written(value, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save({"step": 2})
    assert checkpoint.load() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def _hold(directory, held, release):
    with Checkpoint(directory, "a" * 64).owned():
        held.set()
        release.wait(30)


def test_a_second_process_is_told_who_is_training_the_run(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, held, release))
    holder.start()
    try:
        assert held.wait(60)
        with (
            pytest.raises(ValueError, match=f"process {holder.pid} is already training this run"),
            Checkpoint(tmp_path, "a" * 64).owned(),
        ):
            pass
    finally:
        release.set()
        holder.join()
    with Checkpoint(tmp_path, "a" * 64).owned():
        pass  # free again

"""Checkpoints: whole or absent, of this run only, owned by one process."""

import os
import re

import pytest
import torch

from attndistill.training.checkpoint import Checkpoint, state_digest


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


def test_a_checkpoint_with_one_changed_byte_is_refused_or_holds_the_very_same(tmp_path):
    """torch looks at no checksum: a flipped bit of a weight would be trained on."""
    checkpoint = Checkpoint(tmp_path, "a" * 64)
    state = {"step": 3, "task": {"w": torch.arange(40.0)}, "history": {"loss": [[1, 0.25]]}}
    checkpoint.save(state)
    content, refused = checkpoint.path.read_bytes(), []
    for place in range(0, len(content), 3):
        checkpoint.path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        try:
            assert state_digest(checkpoint.load()) == state_digest(state)
        except ValueError as error:
            refused.append(str(error))
    weights = content.index(torch.arange(40.0).numpy().tobytes()) + 7
    checkpoint.path.write_bytes(content[:weights] + b"\xff" + content[weights + 1 :])
    with pytest.raises(ValueError, match="is damaged: what it holds is not what was saved; remove it"):
        checkpoint.load()
    assert len(refused) > 50
    assert all(re.fullmatch(f"{checkpoint.path} .*remove it.*", line) for line in refused)


@pytest.mark.parametrize(
    "other",
    [
        {"a": 1, "b": torch.zeros(3)},
        {"a": 1.0, "b": torch.zeros(2)},
        {"a": 1, "b": torch.zeros(2, 1)},
        {"a": 1, "b": torch.zeros(2, dtype=torch.int32)},
        {"a": 1, "b": torch.tensor([0.0, -0.0])},
        {"a": True, "b": torch.zeros(2)},
        {"b": torch.zeros(2), "a": 1},
        {"a": [1], "b": torch.zeros(2)},
    ],
)
def test_the_digest_of_a_state_depends_on_names_types_shapes_and_every_value(other):
    state = {"a": 1, "b": torch.zeros(2)}
    assert state_digest(state) == state_digest({"a": 1, "b": torch.zeros(4)[::2]})
    assert state_digest(state) != state_digest(other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.int64, torch.float64])
def test_tensors_of_any_type_and_size_have_a_digest(dtype):
    assert len({state_digest(torch.ones(shape, dtype=dtype)) for shape in [(), (0,), (1,), (2, 0), (3, 4)]}) == 5


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


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    with (
        Checkpoint(tmp_path, "a" * 64).owned(),
        pytest.raises(ValueError, match=f"process {os.getpid()} is already training this run since"),
        Checkpoint(tmp_path, "a" * 64).owned(),
    ):
        pass
    with Checkpoint(tmp_path, "a" * 64).owned():
        pass  # free again

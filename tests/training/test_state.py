"""A checkpoint that is whole, yet not of this run: refused in one line that names it, before a step is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from test_loop import PLAN, Regression, micro_batches, train

from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import Observers, fit
from attndistill.training.optimizers import adamw


def spoil(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        if value is None:
            del state[path[-1]]
        else:
            state[path[-1]] = value

    return change


WEIGHT = ("task", "linear.weight")
SPOILED = {
    "a step that is none": (spoil("step", value="3"), "step: Input should be a valid integer"),
    "a step before the first": (spoil("step", value=0), "step: Input should be greater than 0"),
    "a step past the end": (spoil("step", value=13), "step 13 of 12"),
    "no step": (spoil("step", value=None), "step: Field required"),
    "more than a state": (spoil("more", value=1), "more: Extra inputs are not permitted"),
    "weights of another shape": (
        spoil(*WEIGHT, value=torch.zeros(1, 4, dtype=torch.float64)),
        r"linear.weight is \(1, 4\) torch.float64, wanted \(1, 3\) torch.float64",
    ),
    "weights of another type": (spoil(*WEIGHT, value=torch.zeros(1, 3)), r"linear.weight is \(1, 3\) torch.float32"),
    "weights that are a list": (spoil(*WEIGHT, value=[0.0]), "task.linear.weight: Input should be an instance of Ten"),
    "weights left out": (spoil(*WEIGHT, value=None), "linear.weight is missing"),
    "unknown weights": (spoil("task", "x", value=torch.zeros(1)), "x is unknown"),
    "weights that are not finite": (
        spoil(*WEIGHT, value=torch.full((1, 3), torch.inf, dtype=torch.float64)),
        "linear.weight is not finite",
    ),
    "a moment of another shape": (
        spoil("optimizer", "state", 0, "exp_avg", value=torch.zeros(7)),
        r"exp_avg of parameter 0 is \(7,\) torch.float32, wanted",
    ),
    "moments of a parameter there is not": (spoil("optimizer", "state", 9, value={"exp_avg": torch.zeros(7)}), "index"),
    "no moments": (spoil("optimizer", "state", value=None), "'state'"),
    "no groups": (spoil("optimizer", "param_groups", value=[]), "different number of parameter groups"),
    "a sum that is a vector": (spoil("sums", "loss", value=torch.zeros(2)), r"the sum loss has shape \(2,\)"),
    "a curve of texts": (spoil("history", "loss", value=[[1, "x"]]), "history.loss.0.1.int: Input should be a valid"),
    "a point of one number": (spoil("history", "loss", value=[[1]]), "history.loss.0: List should have at least 2"),
    "a point at a later epoch": (
        spoil("history", "loss", value=[[3, 0.1]]),
        r"the curve loss has points at epochs \[3",
    ),
    "a point twice": (spoil("history", "loss", value=[[1, 0.1], [1, 0.1]]), "the curve loss has points at epochs"),
    "curves of fewer epochs": (spoil("history", "learning_rate", value=None), "not the points of 1 epochs"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run that was stopped after 6 of 12 steps, in the second of its epochs."""
    directory = tmp_path_factory.mktemp("stopped")

    class StoppedError(Exception):
        pass

    def at_step(done: int) -> None:
        if done == 7:
            raise StoppedError

    task = Regression()
    with pytest.raises(StoppedError):
        fit(
            task, adamw(task), micro_batches(8, 1), PLAN, Checkpoint(directory, "this run"), Accelerator(cpu=True),
            Observers(at_step=at_step),
        )  # fmt: skip
    return directory


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_state_that_does_not_fit_the_run_is_refused_saying_what_and_what_to_do(stopped, tmp_path, spoiled):
    change, words = SPOILED[spoiled]
    state = Checkpoint(stopped, "this run").load()
    change(state)
    checkpoint, task = Checkpoint(tmp_path, "this run"), Regression()
    checkpoint.save(state)
    before = task.linear.weight.clone()
    with pytest.raises(ValueError, match=words) as refused:
        train(task, tmp_path)
    assert str(refused.value).startswith(f"{checkpoint.path} does not fit this run (")
    assert str(refused.value).endswith("); remove it, and the run starts anew")
    assert "\n" not in str(refused.value)
    assert torch.equal(task.linear.weight, before) or "group" in words


def test_the_very_state_is_resumed(stopped, tmp_path):
    whole, resumed = Regression(), Regression()
    checkpoint = Checkpoint(tmp_path / "resumed", "this run")
    checkpoint.save(Checkpoint(stopped, "this run").load())
    assert train(resumed, tmp_path / "resumed") == train(whole, tmp_path / "whole")
    assert torch.equal(whole.linear.weight, resumed.linear.weight)

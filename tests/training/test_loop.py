"""The loop: resuming is exact, bad losses stop it, accumulation changes nothing."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import Observers, Plan, fit
from attndistill.training.optimizers import adamw, learning_rate

PLAN = Plan(
    steps=12, steps_per_epoch=4, micro_batches=1, peak_learning_rate=1e-2, warmup_steps=4, checkpoint_seconds=0.0
)


@dataclass
class Numbers:
    """A batch whose content is a function of its position, as views are."""

    indices: np.ndarray
    epoch: int


class Regression(nn.Module):
    def __init__(self, poison: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1, dtype=torch.float64)
        self.poison = poison

    def forward(self, batch: Numbers) -> dict[str, torch.Tensor]:
        x = torch.from_numpy(np.stack([np.sin(batch.indices * (batch.epoch + k + 1)) for k in range(3)], axis=1))
        error = (self.linear(x)[:, 0] - x.sum(dim=1)).square()
        if self.poison in batch.indices:
            error = error * float("nan")
        return {"loss": error.mean(), "largest": error.max()}


def micro_batches(size: int, per_step: int) -> Callable[[int], Iterator[Numbers]]:
    def batches(first_step: int) -> Iterator[Numbers]:
        for number in range(first_step * per_step, PLAN.steps * per_step):
            epoch = number // (PLAN.steps_per_epoch * per_step)
            yield Numbers(np.arange(number * size, (number + 1) * size), epoch)

    return batches


class KilledError(Exception):
    pass


def train(
    task: nn.Module,
    directory: Path,
    *,
    plan: Plan = PLAN,
    size: int = 8,
    kill_at: int = -1,
    batches: Callable[[int], Iterator[Numbers]] | None = None,
) -> dict:
    def at_step(done: int) -> None:
        if done == kill_at:
            raise KilledError

    batches = batches or micro_batches(size, plan.micro_batches)
    checkpoint = Checkpoint(directory, "this run")
    return fit(task, adamw(task), batches, plan, checkpoint, Accelerator(cpu=True), Observers(at_step=at_step))


@pytest.mark.parametrize("kill_at", [1, 4, 7, 11])
def test_a_run_killed_at_any_step_and_resumed_ends_with_the_same_bits_and_curves(tmp_path, kill_at):
    whole, resumed = Regression(), Regression()
    expected = train(whole, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(Regression(), tmp_path / "killed", kill_at=kill_at)
    history = train(resumed, tmp_path / "killed")
    assert torch.equal(whole.linear.weight, resumed.linear.weight)
    assert history == expected
    assert [epoch for epoch, _ in history["loss"]] == [1, 2, 3]


def test_a_resumed_run_forgets_nothing_it_saw_between_the_checkpoint_and_the_kill(tmp_path):
    """With a checkpoint an hour old the steps since are simply done again."""
    whole, resumed = Regression(), Regression()
    train(whole, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(Regression(), tmp_path / "killed", plan=replace(PLAN, checkpoint_seconds=3600), kill_at=6)
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()
    train(resumed, tmp_path / "killed")
    assert torch.equal(whole.linear.weight, resumed.linear.weight)


class Remembering(Regression):
    """Carries a sum of all it has seen, taken in once an update, and something frozen."""

    def __init__(self, poison: int = -1) -> None:
        super().__init__(poison)
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.fresh = 0

    def forward(self, batch: Numbers) -> dict[str, torch.Tensor]:
        self.fresh += int(batch.indices.sum())
        losses = super().forward(batch)
        return losses | {"loss": losses["loss"] + 1e-6 * self.seen * self.linear.weight.sum()}

    def after_update(self) -> None:
        self.seen += self.fresh
        self.fresh = 0


@pytest.mark.parametrize("kill_at", [1, 4, 11])
def test_the_state_a_task_keeps_resumes_exactly_and_does_not_depend_on_micro_batches(tmp_path, kill_at):
    whole, resumed, accumulated = Remembering(), Remembering(), Remembering()
    expected = train(whole, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(Remembering(), tmp_path / "killed", kill_at=kill_at)
    assert train(resumed, tmp_path / "killed") == expected
    assert torch.equal(whole.linear.weight, resumed.linear.weight)
    assert whole.seen == resumed.seen == sum(range(12 * 8))
    assert "frozen" not in Checkpoint(tmp_path / "killed", "this run").load()["task"]
    train(accumulated, tmp_path / "parts", plan=replace(PLAN, micro_batches=4), size=2)
    assert torch.allclose(whole.linear.weight, accumulated.linear.weight, rtol=1e-12, atol=1e-12)


def test_accumulating_micro_batches_gives_the_update_of_the_whole_batch(tmp_path):
    whole, accumulated = Regression(), Regression()
    expected = train(whole, tmp_path / "whole")
    history = train(accumulated, tmp_path / "parts", plan=replace(PLAN, micro_batches=4), size=2)
    assert torch.allclose(whole.linear.weight, accumulated.linear.weight, rtol=1e-12, atol=1e-12)
    assert history["loss"] == [[epoch, pytest.approx(value, rel=1e-12)] for epoch, value in expected["loss"]]


def test_a_loss_that_is_not_finite_stops_the_run_naming_step_epoch_and_images(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 5, epoch 1, image indices \[40, 41, .* 47\]"):
        train(Regression(poison=42), tmp_path)
    state = Checkpoint(tmp_path, "this run").load()
    assert state["step"] == 5  # the last good one
    assert all(tensor.isfinite().all() for tensor in state["task"].values())


def of_rank(rank: int, size: int, ranks: int) -> Callable[[int], Iterator[Numbers]]:
    def batches(first_step: int) -> Iterator[Numbers]:
        for number in range(first_step, PLAN.steps):
            first = (number * ranks + rank) * size
            yield Numbers(np.arange(first, first + size), number // PLAN.steps_per_epoch)

    return batches


CASES = {
    "rank 1": ([-1, 46], 0.0),
    "rank 1, unsaved": ([-1, 46], 3600.0),
    "both": ([1, 6], 0.0),
    "none": ([-1, -1], 0.0),
}


def train_as_rank(rank: int, port: int, directory: Path, said: SimpleQueue) -> None:
    """Every case, one after another."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    for name, (poison, seconds) in CASES.items():
        plan, text = replace(PLAN, checkpoint_seconds=seconds), ""
        try:
            train(Regression(poison[rank]), directory / name, plan=plan, batches=of_rank(rank, 4, 2))
        except FloatingPointError as error:
            text = str(error)
        said.put((name, rank, text))


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """The folders of the cases' checkpoints, and what each rank said of each case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn, directory = multiprocessing.get_context("spawn"), tmp_path_factory.mktemp("ranks")
    said = spawn.SimpleQueue()
    ranks = [spawn.Process(target=train_as_rank, args=(rank, port, directory, said)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(600)
        assert process.exitcode == 0
    texts: dict[str, list[str]] = {}
    for name, _, text in sorted(said.get() for _ in range(2 * len(CASES))):
        texts.setdefault(name, []).append(text)
    return directory, texts


@pytest.mark.parametrize(("name", "saved"), [("rank 1", 5), ("rank 1, unsaved", None)])
def test_a_loss_that_one_rank_alone_finds_bad_ends_all_ranks_and_ruins_no_checkpoint(on_two_ranks, name, saved):
    """Rank 1's image: rank 0 sees finite losses, and would save weights that the shared gradients have ruined."""
    directory, texts = on_two_ranks
    assert texts[name] == 2 * ["loss is nan at step 5, epoch 1, image indices [44, 45, 46, 47]"]
    state = Checkpoint(directory / name, "this run").load()
    assert (state and state["step"]) == saved
    assert state is None or all(tensor.isfinite().all() for tensor in state["task"].values())


def test_ranks_that_find_bad_losses_at_one_step_name_the_images_of_each(on_two_ranks):
    directory, texts = on_two_ranks
    assert texts["both"] == 2 * [
        "loss is nan at step 0, epoch 0, image indices [0, 1, 2, 3] and "
        "loss is nan at step 0, epoch 0, image indices [4, 5, 6, 7]"
    ]
    assert Checkpoint(directory / "both", "this run").load() is None


def test_two_ranks_whose_losses_are_finite_end_with_the_weights_of_one(on_two_ranks, tmp_path):
    directory, texts = on_two_ranks
    whole = Regression()
    train(whole, tmp_path)
    found = Checkpoint(directory / "none", "this run").load()
    assert (texts["none"], found["step"]) == (["", ""], PLAN.steps)
    torch.testing.assert_close(found["task"]["linear.weight"], whole.linear.weight, rtol=1e-12, atol=1e-12)


class Bounded(nn.Module):
    """Its loss is finite whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, batch: Numbers) -> dict[str, torch.Tensor]:
        return {"loss": self.weight.nan_to_num().tanh().sum()}


@pytest.mark.parametrize(("steps", "first_bad"), [(12, 1), (2, 1)])  # before the end, and in the last step
@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_weights_that_are_not_finite_are_never_saved_and_name_step_and_rate(tmp_path, steps, first_bad, seconds):
    plan = Plan(steps, 2, 1, peak_learning_rate=4e39, warmup_steps=1, checkpoint_seconds=seconds)
    at = first_bad if seconds == 0 else steps - 1
    with pytest.raises(FloatingPointError) as said:
        train(Bounded(), tmp_path, plan=plan, batches=lambda first: islice(micro_batches(8, 1)(first), steps - first))
    assert str(said.value) == (
        f"weights are not finite after step {at}, epoch {at // 2} (weight): the largest learning rate so far was "
        "4e+39, try a lower base_learning_rate"
    )
    state = Checkpoint(tmp_path, "this run").load()
    assert (state and state["step"]) == (1 if seconds == 0 else None)


def test_the_published_loop_drops_such_an_update_in_silence_and_is_counted(tmp_path):
    """Step 5 leaves no trace in weights or optimizer; the curve of its epoch is the mean of the three others."""
    dropping = replace(PLAN, drop_unfinite=True)
    kept, poisoned = Regression(), Regression(poison=42)
    expected, found = (
        train(task, tmp_path / name, plan=dropping) for task, name in ((kept, "kept"), (poisoned, "bad"))
    )
    assert [value for _, value in found["dropped"]] == [0, 0.25, 0]
    assert [value for _, value in expected["dropped"]] == [0, 0, 0]
    assert found["loss"][0] == expected["loss"][0]
    assert torch.isfinite(poisoned.linear.weight).all()
    assert not torch.equal(poisoned.linear.weight, kept.linear.weight)
    plain = Regression()
    assert train(plain, tmp_path / "plain")["loss"] == expected["loss"]
    assert torch.equal(plain.linear.weight, kept.linear.weight)
    by_hand = train_without_step(5)
    torch.testing.assert_close(poisoned.linear.weight, by_hand[0], rtol=1e-12, atol=1e-12)
    assert found["loss"][1][1] == pytest.approx(by_hand[1], rel=1e-12)


def train_without_step(left_out: int) -> tuple[torch.Tensor, float]:
    """The weights at the end, and the mean loss of epoch 2, of a bare loop that leaves one step out."""
    task = Regression()
    optimizer, losses = adamw(task), []
    for step, batch in enumerate(micro_batches(8, 1)(0)):
        if step == left_out:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=1e-2, steps=12, warmup_steps=4)
        loss = task(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((step, loss.item()))
    second = [loss for step, loss in losses if 4 <= step < 8]
    return task.linear.weight, sum(second) / len(second)


def test_a_run_of_which_every_update_would_be_dropped_stops(tmp_path):
    class Hopeless(Regression):
        def forward(self, batch: Numbers) -> dict[str, torch.Tensor]:
            return {"loss": super().forward(batch)["loss"] * float("nan")}

    with pytest.raises(FloatingPointError, match="every update of epoch 1 was dropped: no gradient was finite"):
        train(Hopeless(), tmp_path, plan=replace(PLAN, drop_unfinite=True))


def test_a_finished_run_started_again_trains_nothing(tmp_path):
    task = Regression()
    expected = train(task, tmp_path)
    again = Regression(poison=0)  # would raise at the first step
    assert train(again, tmp_path) == expected
    assert torch.equal(task.linear.weight, again.linear.weight)


def test_the_learning_rate_warms_up_linearly_then_falls_as_a_cosine_to_zero():
    rates = [learning_rate(step, peak=2.0, steps=12, warmup_steps=4) for step in range(13)]
    assert rates[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[12] == pytest.approx(0.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)

"""Real processes, really killed: what they leave is a whole checkpoint, and the next one resumes from there."""

import json
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from real_project import attndistill, environment, result
from safetensors.torch import load

pytestmark = pytest.mark.drivers

DISTILL = ("python", "-m", "attndistill", "distill", "--row", "attndistill")
STEPS = 27  # 3 epochs of 1,258 // 128 batches
# a server that does not listen: journals stay on disk
UNSENT = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "ATTNDISTILL_TRACKING_WAIT": "0"}


def steps_saved(directory: Path, seeds: int = 1) -> int:
    """Steps on disk, of the seed that has the fewest."""
    found = list((directory / ".work").glob("distill-attndistill/*/checkpoint.pt"))
    return min(torch.load(path, weights_only=True)["state"]["step"] for path in found) if len(found) == seeds else 0


def kill_after(directory: Path, step: int, *settings: str, seeds: int = 1, **more: str) -> None:
    """Start distilling, checkpointing at every step, and kill the process once `step` of every seed is on disk."""
    process = subprocess.Popen(
        [*DISTILL, "--runtime.checkpoint_seconds", "0", *settings],
        cwd=directory,
        env=environment(**more),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while steps_saved(directory, seeds) < step:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    process.stderr.close()


def test_a_run_killed_at_random_steps_and_restarted_ends_with_byte_identical_weights_and_curves(taught, student_of):
    expected = student_of()
    for step in sorted(random.Random(0).sample(range(1, STEPS - 3), 3)):
        kill_after(taught, step)
        assert step <= steps_saved(taught) < STEPS
    assert student_of() == expected
    assert steps_saved(taught) == 0  # the checkpoint goes once the result is stored
    assert not (taught / ".work" / "tmp").exists()


def start(directory: Path) -> subprocess.Popen:
    """A run that checkpoints at every step, and has."""
    process = subprocess.Popen(
        [*DISTILL, "--runtime.checkpoint_seconds", "0"],
        cwd=directory,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not steps_saved(directory):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    return process


def test_sigterm_ends_a_run_as_an_interrupt_does_and_it_can_be_resumed(taught, student_of):
    expected, process = student_of(), start(taught)
    process.terminate()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143
    assert [line for line in said.splitlines() if line.startswith("attndistill:")] == ["attndistill: interrupted"]
    assert "Traceback" not in said
    assert not (taught / ".work" / "tmp").exists()
    assert 1 <= steps_saved(taught) < STEPS
    assert student_of() == expected


def test_a_damaged_checkpoint_is_refused_in_one_line_and_the_run_starts_anew_without_it(taught, student_of):
    expected = student_of()
    kill_after(taught, 5)
    [path] = (taught / ".work").glob("distill-attndistill/*/checkpoint.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # in a weight
    path.write_bytes(content)
    done = attndistill(taught, "distill", "--row", "attndistill", code=2)
    [line] = done.stderr.strip().splitlines()
    assert (
        line
        == f"attndistill: {path} is damaged: what it holds is not what was saved; remove it, and the run starts anew"
    )
    path.unlink()
    assert student_of() == expected


def students(directory: Path, seeds: list[int], *settings: str, **more: str) -> list[bytes]:
    """The weights of a row of several seeds."""
    attndistill(directory, "distill", "--row", "attndistill", "--seeds", str(seeds), *settings, **more)
    made = directory / "outputs/distilled/attndistill"
    return [(made / f"seed-{seed}/model.safetensors").read_bytes() for seed in seeds]


def test_seeds_trained_side_by_side_are_the_bytes_of_one_after_another(taught):
    alone, together = (students(taught, [0, 7, 8], "--runtime.processes", str(count)) for count in (1, 2))
    assert alone == together


@dataclass
class Interrupted:
    """Two seeds side by side, killed and started again: their weights, and what each run's journal was told."""

    weights: list[bytes]
    killed: dict[str, list[int]]
    resumed: dict[str, list[int]]


@pytest.fixture(scope="module")
def interrupted(taught: Path) -> Interrupted:
    settings = ("--runtime.processes", "2", "--runtime.tracking", "true")
    kill_after(taught, 11, *settings, "--seeds", "[0, 7]", seeds=2, **UNSENT)
    assert 11 <= steps_saved(taught, 2) < STEPS
    weights = students(taught, [0, 7], *settings, **UNSENT)
    return Interrupted(weights, *map(epochs_told, sorted((taught / ".work/tracking").glob("[!.]*/journal.jsonl"))))


def epochs_told(journal: Path) -> dict[str, list[int]]:
    """Curve -> the epochs of its points, in the journal's order."""
    told: dict[str, list[int]] = {}
    for line in journal.read_text().splitlines():
        event = json.loads(line)
        for name in event.get("values", {}):
            told.setdefault(name, []).append(event["step"])
    return told


def test_seeds_killed_side_by_side_and_restarted_end_with_byte_identical_weights(taught, interrupted):
    assert interrupted.weights == students(taught, [0, 7], "--runtime.processes", "1")


def test_a_killed_run_of_two_seeds_has_told_the_points_of_both(interrupted):
    assert interrupted.killed["seed-0/loss"][0] == interrupted.killed["seed-7/loss"][0] == 1


def test_the_resumed_run_tells_every_point_of_both_seeds_once(interrupted):
    names = {"loss", "alignment", "attention", "learning_rate"}
    assert set(interrupted.resumed) == {f"seed-{seed}/{name}" for seed in (0, 7) for name in names}
    assert all(epochs == [1, 2, 3] for epochs in interrupted.resumed.values())


def test_a_bad_loss_in_one_of_several_seeds_ends_the_command_with_its_message(taught):
    done = attndistill(taught, "distill", "--row", "attndistill", "--seeds", "[0, 7, 8]", "--runtime.processes", "2",
                       "--distill.recipe.base_learning_rate", "1e30", code=1)  # fmt: skip
    assert len([line for line in done.stderr.splitlines() if "image indices [" in line]) == 1
    assert "Traceback" not in done.stderr


def test_the_number_of_loader_workers_changes_no_byte(student_of):
    assert student_of("--runtime.workers", "2") == student_of()


def test_two_ranks_take_the_same_steps_as_one(taught, student_of):
    alone, _ = student_of()
    launcher = ("python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    together, _ = student_of(command=launcher)
    for name, tensor in load(together).items():
        assert torch.allclose(tensor, load(alone)[name], rtol=1e-3, atol=1e-5), name


def test_a_process_that_finds_the_run_taken_says_by_whom_and_leaves_it_alone(taught):
    process = start(taught)
    try:
        process.send_signal(signal.SIGSTOP)  # an orphan that hangs
        second = subprocess.run(
            DISTILL, cwd=taught, env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert second.returncode == 2
        assert f"process {process.pid} is already training this run since 20" in second.stderr
        assert f"end it with `kill {process.pid}`" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(result(taught)[0]) > 0


def test_a_loss_that_is_not_finite_ends_the_command_with_one_line_and_keeps_the_checkpoint(taught):
    done = subprocess.run(
        [*DISTILL, "--distill.recipe.base_learning_rate", "1e30", "--runtime.checkpoint_seconds", "0"],
        cwd=taught,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("attndistill:")]
    assert len(lines) == 1
    assert "at step" in lines[0]
    assert "image indices [" in lines[0]
    assert "Traceback" not in done.stderr

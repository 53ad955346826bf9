"""Real processes, really killed: what they leave is a whole checkpoint, and the next one goes on from there."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import attndistill, environment, result
from safetensors.torch import load

pytestmark = pytest.mark.drivers

DISTILL = ("python", "-m", "attndistill", "distill", "--row", "attndistill")


def steps_saved(directory: Path) -> int:
    found = list((directory / ".work").glob("distill-attndistill/*/checkpoint.pt"))
    return torch.load(found[0], weights_only=True)["state"]["step"] if found else 0


def kill_after(directory: Path, step: int) -> None:
    """Start distilling, checkpointing at every step, and kill the process once `step` is on disk."""
    process = subprocess.Popen(
        [*DISTILL, "--runtime.checkpoint_seconds", "0"],
        cwd=directory,
        env=environment(),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while steps_saved(directory) < step:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    process.stderr.close()


def test_a_run_killed_at_random_steps_and_restarted_ends_with_byte_identical_weights_and_curves(taught, student_of):
    expected = student_of()
    steps = 27  # 3 epochs of 1,258 // 128 batches
    for step in sorted(random.Random(0).sample(range(1, steps - 3), 3)):
        kill_after(taught, step)
        assert step <= steps_saved(taught) < steps
    assert student_of() == expected
    assert steps_saved(taught) == 0  # the checkpoint goes once the result is stored


def test_seeds_trained_side_by_side_are_the_bytes_of_one_after_another(taught):
    def students(processes: int) -> list[bytes]:
        attndistill(taught, "distill", "--row", "attndistill", "--seeds", "[0, 7, 8]",
                    "--runtime.processes", str(processes))  # fmt: skip
        made = taught / "outputs/digits/distilled/attndistill"
        return [(made / f"seed-{seed}/model.safetensors").read_bytes() for seed in (0, 7, 8)]

    assert students(1) == students(2)


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
    process = subprocess.Popen([*DISTILL, "--runtime.checkpoint_seconds", "0"], cwd=taught, env=environment())
    try:
        while not steps_saved(taught):
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)  # an orphan that hangs
        second = subprocess.run(
            DISTILL, cwd=taught, env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert second.returncode == 2
        assert f"process {process.pid} is already training this run" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
    finally:
        process.send_signal(signal.SIGCONT)
        assert process.wait(120) == 0
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

"""A short distillation at 224 px through the package's own loop: twice, and once killed (-9) and resumed.

What a reader would get wrong: `fit` is the package's; the loader, the live teacher and the checkpoint too. Only the
images are made up.
"""

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from attndistill.config import Config, resolve
from attndistill.data.loading import Schedule, training_batches
from attndistill.experiments import open_experiment
from attndistill.models.projector import state_of
from attndistill.pipeline import make_deterministic
from attndistill.targets import LiveTeacher
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import Observers, Plan, fit
from attndistill.training.optimizers import adamw
from benchmarks.configurations import CONFIGURATIONS, Pair, made_up_images

_ROOT = Path(__file__).parents[1]


def plain_config() -> Config:
    """The configuration of the embedded default, for what a run fixes before it starts."""
    return resolve(open_experiment(_ROOT).layers)


def distil(
    name: str,
    directory: Path,
    device: torch.device,
    *,
    precision: str,
    steps: int,
    batch_size: int,
    workers: int,
    checkpoint_seconds: float,
    at_step: Callable[[int], None] = lambda done: None,
) -> tuple[str, float]:
    """Train from the checkpoint in `directory`, or from the start; the digest of all weights, and steps a second."""
    make_deterministic(plain_config())
    configuration = CONFIGURATIONS[name]
    pair = Pair.built(configuration, device)
    images = made_up_images(configuration, 4 * batch_size)
    schedule = Schedule(len(images), batch_size, -(-steps // 4), 0)
    task = pair.task(LiveTeacher(pair.teacher, device))
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=device.type == "cpu")
    plan = Plan(schedule.steps, schedule.steps_per_epoch, 1, 1e-3, 4, checkpoint_seconds)
    times: list[float] = []

    def told(done: int) -> None:
        times.append(time.perf_counter())
        at_step(done)

    checkpoint = Checkpoint(directory, f"{name} {precision} {steps}")
    with checkpoint.owned():
        history = fit(
            task,
            adamw(task),
            lambda first: training_batches(images, configuration.recipe, schedule, first_step=first, workers=workers),
            plan,
            checkpoint,
            accelerator,
            Observers(at_step=told),
        )
    digest = hashlib.sha256(repr(history).encode())
    for key, tensor in state_of(task).items():
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest(), (len(times) - 1) / max(times[-1] - times[0], 1e-9)


def measure(name: str, folder: Path, device: torch.device, **settings: Any) -> dict[str, Any]:
    """Two whole runs and a killed one: whether their weights and curves are the same bytes."""
    whole, speed = distil(name, folder / "whole", device, **settings)
    again, _ = distil(name, folder / "again", device, **settings)
    killed_at = _kill_in_the_middle(name, folder / "killed", device, settings)
    saved = Checkpoint(folder / "killed", f"{name} {settings['precision']} {settings['steps']}").steps_done()
    resumed, _ = distil(name, folder / "killed", device, **settings)
    return {
        **settings,
        "images_a_second": speed * settings["batch_size"],
        "killed_after_step": killed_at,
        "resumed_from_step": saved,
        "two_runs_are_the_same_bytes": whole == again,
        "killed_and_resumed_is_the_same_bytes": whole == resumed,
        "sha256": whole,
    }


def _kill_in_the_middle(name: str, directory: Path, device: torch.device, settings: dict[str, Any]) -> int:
    """Train in another process and kill it once half of the steps are done and one was saved; the steps it did."""
    options = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "benchmarks.training", name, str(directory), device.type, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        done = 0
        for line in process.stdout:
            done = int(line)
            if done >= settings["steps"] // 2 and (directory / "checkpoint.pt").exists():
                process.kill()
                break
        else:
            raise RuntimeError(f"the run to be killed ended by itself with code {process.wait()} after step {done}")
    return done


def main() -> None:
    """One run, to be killed from outside: prints the steps done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("name", choices=list(CONFIGURATIONS))
    parser.add_argument("directory", type=Path)
    parser.add_argument("device")
    parser.add_argument("--precision", required=True)
    for number in ("--steps", "--batch-size", "--workers"):
        parser.add_argument(number, type=int, required=True)
    parser.add_argument("--checkpoint-seconds", type=float, required=True)
    options = vars(parser.parse_args())
    name, directory, device = (options.pop(key) for key in ("name", "directory", "device"))
    distil(name, directory, torch.device(device), **options, at_step=lambda done: print(done, flush=True))


if __name__ == "__main__":
    main()

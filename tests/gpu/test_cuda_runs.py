"""Runs on a GPU: the same bytes again, the same bytes after a kill, and every stage to its end."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from attndistill.experiments import open_experiment
from attndistill.pipeline import run_pipeline, run_stage
from attndistill.stages import STAGES, Item
from attndistill.stages.layout import Layout
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import Observers, Plan, fit
from attndistill.training.optimizers import adamw
from benchmarks import training

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_a_gpu_is_the_same_bytes_again_and_after_a_kill(tmp_path, device, precision):
    settings = {"steps": 24, "batch_size": 8, "workers": 1, "checkpoint_seconds": 0.0}
    found = training.measure("small", tmp_path, device, precision=precision, **settings)
    assert 12 <= found["killed_after_step"] < 24
    assert found["two_runs_are_the_same_bytes"]
    assert found["killed_and_resumed_is_the_same_bytes"]


@dataclass
class Numbers:
    indices: np.ndarray
    epoch: int


class Poisoned(torch.nn.Module):
    """Its loss is not finite where image 42 is in the batch."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, 1, device=device)

    def forward(self, batch: Numbers) -> dict[str, torch.Tensor]:
        loss = self.linear(torch.ones(1, 1, device=self.linear.weight.device)).square().sum()
        return {"loss": loss * (float("nan") if 42 in batch.indices else 1.0)}


def test_a_loss_on_a_gpu_that_is_not_finite_stops_the_run_naming_step_and_images(tmp_path, device):
    plan = Plan(20, 10, 1, 1e-3, 2, checkpoint_seconds=0.0)
    batches = lambda first: (Numbers(np.arange(8 * n, 8 * n + 8), n // 10) for n in range(first, 20))  # noqa: E731
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(cpu=device.type == "cpu")
    task = Poisoned(device)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 5, epoch 0, image indices \[40, 41, .* 47\]"):
        fit(task, adamw(task), batches, plan, Checkpoint(tmp_path, "run"), accelerator, Observers())
    assert Checkpoint(tmp_path, "run").load()["step"] == 5  # the last good one


def project(root: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(ROOT / "experiments/smoke", root / "experiments/smoke")
    return root


def test_every_stage_runs_on_a_gpu_and_a_teacher_is_the_same_bytes_again(tmp_path, device):
    settings = {"runtime.tracking": False, "runtime.device": device.type, "seeds": [0]}
    weights = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        root = project(tmp_path / name)
        experiment = open_experiment(root / "experiments/smoke")
        if name == "first":
            run_pipeline(experiment, settings)
            assert (root / "experiments/smoke/outputs/report/index.html").exists()
        else:
            run_stage(experiment, STAGES["prepare"], Item(), settings)
            run_stage(experiment, STAGES["pretrain"], Item("teacher"), settings)
        seed = experiment.config("", settings).teacher_seed
        stored = Layout(root / "experiments/smoke", "smoke").weights("teacher", seed)
        weights.append((stored / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]

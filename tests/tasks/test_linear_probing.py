"""The linear probe: a classifier alone learns, by MAE's rule, and resumes exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from attndistill.data.loading import Batch
from attndistill.models.projector import Projector
from attndistill.models.vit import build_vit
from attndistill.tasks.linear_probing import GroupNormalisation, LinearProbing
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import Observers, Plan, fit
from attndistill.training.optimizers import lars

VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "sincos"}
CLASSES = 3
PLAN = Plan(
    steps=60, steps_per_epoch=20, micro_batches=1, peak_learning_rate=5.0, warmup_steps=10, checkpoint_seconds=0.0
)


def probing(layer: int = 0) -> LinearProbing:
    return LinearProbing(
        build_vit(8, 0, **VIT), CLASSES, 4, statistics=8, projector=Projector(16, 24, 2, seed=1), layer=layer
    )


def batch(number: int) -> Batch:
    """Images whose colour is their class."""
    draws = np.random.default_rng(number)
    labels = torch.from_numpy(draws.integers(0, CLASSES, 16))
    images = torch.from_numpy(draws.normal(0, 0.3, (16, 3, 8, 8))).float()
    images[torch.arange(16), labels] += 2.0
    return Batch(images, labels, np.arange(16), number // PLAN.steps_per_epoch)


class KilledError(Exception):
    pass


def train(task: LinearProbing, directory: Path, kill_at: int = -1) -> dict:
    def at_step(done: int) -> None:
        if done == kill_at:
            raise KilledError

    batches = lambda first: map(batch, range(first, PLAN.steps))  # noqa: E731
    checkpoint = Checkpoint(directory, "this run")
    return fit(task, lars(task), batches, PLAN, checkpoint, Accelerator(cpu=True), Observers(at_step=at_step))


@pytest.mark.parametrize(("layer", "width"), [(0, 16), (1, 32), (2, 24)])
def test_the_classifier_alone_learns_from_the_feature_that_was_asked_for(tmp_path, layer, width):
    task = probing(layer)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    assert task.classifier.in_features == width
    train(task, tmp_path)
    task.eval()
    with torch.no_grad():
        found = task.logits(batch(999).images).argmax(dim=1)
    assert (found == batch(999).labels).float().mean() > 0.9
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias", "norm.running_mean", "norm.running_var"}


def test_a_linear_probe_killed_and_resumed_ends_with_the_same_bits(tmp_path):
    whole, resumed = probing(), probing()
    train(whole, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(probing(), tmp_path / "killed", kill_at=23)
    train(resumed, tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_norm_is_torchs_on_each_group_in_turn():
    ours, theirs = GroupNormalisation(5, 4).double(), nn.BatchNorm1d(5, eps=1e-6, affine=False).double()
    features = 3 + 2 * torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([theirs(group) for group in features.split(4)])
    torch.testing.assert_close(ours(features), expected, rtol=1e-12, atol=1e-12)
    ours.after_update()
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.eval()(features), theirs.eval()(features), rtol=1e-12, atol=1e-12)


def test_lars_is_the_rule_of_maes_linear_probe():
    """v = m v + q g, w = w - lr v; q = 0.001 |w| / |g| of a matrix, 1 of a vector."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 3, dtype=torch.float64)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    moment, bias_moment = torch.zeros_like(weight), torch.zeros_like(bias)
    optimizer = lars(layer)
    for group in optimizer.param_groups:
        group["lr"] = 0.7
    for _ in range(4):
        layer.weight.grad, layer.bias.grad = torch.randn_like(weight), torch.randn_like(bias)
        moment = 0.9 * moment + 0.001 * weight.norm() / layer.weight.grad.norm() * layer.weight.grad
        bias_moment = 0.9 * bias_moment + layer.bias.grad
        weight, bias = weight - 0.7 * moment, bias - 0.7 * bias_moment
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-7, atol=0)  # timm adds 1e-8 to the norm
    torch.testing.assert_close(layer.bias.detach(), bias, rtol=1e-12, atol=0)

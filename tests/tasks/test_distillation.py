"""The distillation task: the paper's losses to the bit, and state that a resumed run finds again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from attndistill.config import resolve
from attndistill.core.features import Features
from attndistill.data.loading import Batch
from attndistill.experiments import open_experiment
from attndistill.losses import AGGREGATIONS, EMBEDDING_LOSSES, GUIDANCE, SIGNALS
from attndistill.losses.aggregation import geometric_mean
from attndistill.losses.embedding import Setting
from attndistill.losses.fields import teacher_fields
from attndistill.losses.guidance import kl_divergence
from attndistill.losses.interpolation import interpolate_attention
from attndistill.models.projector import Projector, Student
from attndistill.models.readout import read_features
from attndistill.models.vit import build_vit
from attndistill.tasks.distillation import Distillation, Objective
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import Observers, Plan, fit
from attndistill.training.optimizers import adamw

ROOT = Path(__file__).parents[2]
GRIDS = {"teacher_grid": (4, 4), "student_grid": (2, 2)}
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "position": "sincos"}


def answer(batch: Batch) -> Features:
    """A teacher that is a function of the batch's numbers alone."""
    generator = torch.Generator().manual_seed(int(batch.indices.sum()))
    attention = torch.randn(len(batch.indices), 3, 17, generator=generator).log_softmax(-1)
    return Features(torch.randn(len(batch.indices), 12, generator=generator), attention)


def batch_of(number: int) -> Batch:
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(number))
    return Batch(images, torch.zeros(4, dtype=torch.int64), np.arange(4 * number, 4 * number + 4), number // 2)


def make_task(embedding: str | None = None, **options: object) -> Distillation:
    student = Student(build_vit(16, 0, patch_size=8, **VIT), Projector(16, 12, 2, seed=0))
    defaults = resolve(open_experiment(ROOT).layers).distill
    objective = Objective(
        1.0,
        0.1,
        SIGNALS.bind(defaults.signal.name, defaults.signal.options()),
        AGGREGATIONS.bind(defaults.aggregation.name, defaults.aggregation.options()),
        GUIDANCE.bind(defaults.attention_loss.name, defaults.attention_loss.options()),
        **GRIDS,
        fields=tuple(teacher_fields(defaults)),
    )
    further = embedding and EMBEDDING_LOSSES.bind(embedding, options)(Setting(12, *GRIDS.values(), seed=0))
    return Distillation(student, answer, objective, further or None)


def test_the_default_settings_compute_the_papers_loss_to_the_bit():
    """Choices that are off leave no trace, not even in the last bit."""
    task, batch = make_task(), batch_of(0)
    teacher, student = answer(batch), read_features(task.student.backbone, batch.images)
    alignment = torch.nn.functional.mse_loss(task.student.projector(student.cls_token), teacher.cls_token)
    on_grid = interpolate_attention(teacher.log_attention, (4, 4), (2, 2))
    attention = kl_divergence(geometric_mean(on_grid), geometric_mean(student.log_attention))
    plain, losses = alignment + 0.1 * attention, task(batch)
    assert list(losses) == ["loss", "alignment", "attention"]
    assert torch.equal(losses["loss"], plain)
    found, expected = (
        torch.autograd.grad(value, task.student.backbone.blocks.parameters()) for value in (losses["loss"], plain)
    )
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


class KilledError(Exception):
    pass


def train(directory: Path, kill_at: int = -1) -> Distillation:
    task = make_task("compress", queue_size=10, temperature=0.1)

    def at_step(done: int) -> None:
        if done == kill_at:
            raise KilledError

    plan = Plan(
        steps=6, steps_per_epoch=2, micro_batches=1, peak_learning_rate=1e-3, warmup_steps=2, checkpoint_seconds=0
    )
    batches = lambda first: (batch_of(number) for number in range(first, 6))  # noqa: E731
    fit(
        task,
        adamw(task),
        batches,
        plan,
        Checkpoint(directory, "run"),
        Accelerator(cpu=True),
        Observers(at_step=at_step),
    )
    return task


@pytest.mark.parametrize("kill_at", [1, 3, 5])
def test_a_killed_run_finds_its_queue_again(tmp_path, kill_at):
    whole = train(tmp_path / "whole").state_dict()
    with pytest.raises(KilledError):
        train(tmp_path / "killed", kill_at)
    resumed = train(tmp_path / "killed").state_dict()
    assert {"embedding.queue", "embedding.place"} <= whole.keys()
    assert whole["embedding.place"] == 24 % 10
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())

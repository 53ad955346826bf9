"""Guidance other than the last block's attention, against plain float64 references in value and every gradient."""

import numpy as np
import pytest
import torch
from plain import (
    SIDE,
    TEMPERATURE,
    Weights,
    aggregate,
    bicubic,
    block,
    compare,
    embed,
    interpolate,
    lively,
    make_vit,
    project,
    value_lengths,
    vit,
)
from torch import Tensor, nn

from attndistill.data.loading import Batch
from attndistill.losses import AGGREGATIONS, EMBEDDING_LOSSES, GUIDANCE, SIGNALS
from attndistill.losses.embedding import Setting
from attndistill.models.projector import Projector, Student
from attndistill.targets import LiveTeacher
from attndistill.tasks.distillation import Distillation, Objective

CPU = torch.device("cpu")


def batch_of(seed: int, size: int = 3) -> Batch:
    images = torch.randn(size, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Batch(images, torch.zeros(size, dtype=torch.int64), np.arange(size), 0)


class Pair:
    """A teacher and a student of other depth, width and perhaps grid, with the package's task between them."""

    def __init__(
        self,
        *,
        depths: tuple[int, int] = (2, 2),
        patch: int = 8,
        signal: tuple[str, dict] = ("attention", {}),
        fields: tuple[str, ...] = (),
        weights: tuple[float, float] = (0.7, 0.3),
        embedding: tuple[str, dict] | None = None,
    ) -> None:
        self.depths, self.grid, self.weights = depths, SIDE // patch, weights
        self.teacher = make_vit(1, 24, depths[0], 4, 4)
        self.student = Student(make_vit(2, 16, depths[1], 2, patch), lively(Projector(16, 24, 2, seed=3), 3))
        grids = {"teacher_grid": (6, 6), "student_grid": (self.grid, self.grid)}
        further = None
        if embedding is not None:
            further = EMBEDDING_LOSSES[embedding[0]](Setting(24, *grids.values(), seed=5), **embedding[1]).double()
        objective = Objective(
            *weights,
            SIGNALS.bind(*signal),
            AGGREGATIONS.bind("geometric_mean", {"temperature": TEMPERATURE}),
            GUIDANCE.bind("kl", {}),
            **grids,
            fields=fields,
        )
        self.task = Distillation(self.student, LiveTeacher(self.teacher, CPU, fields), objective, further)

    def plain_weights(self) -> tuple[Weights, Weights, Weights]:
        models = (self.teacher, self.student.backbone, self.student.projector)
        return tuple(dict(model.named_parameters()) for model in models)

    def guidance(self, teacher: Tensor, student: Tensor) -> Tensor:
        teacher = interpolate(teacher, 6, self.grid)
        return compare(aggregate(teacher, "geometric_mean"), aggregate(student, "geometric_mean"), "kl")


def agree(student: nn.Module, ours: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    names, parameters = zip(*student.named_parameters(), strict=True)
    found, expected = (
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True) for value in (ours, plain)
    )
    for name, mine, theirs in zip(names, found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("depths", "matched"),
    [((2, 2), [0, 1]), ((3, 2), [1, 2]), ((2, 3), [0, 1, 1]), ((4, 1), [3]), ((1, 2), [0, 0])],
    ids=str,
)
@pytest.mark.parametrize("patch", [4, 8])
def test_guidance_by_all_layers_is_the_mean_over_the_students_blocks(depths, matched, patch):
    pair, batch = (
        Pair(depths=depths, patch=patch, signal=("attention", {"layers": "all"}), fields=("layer_attention",)),
        batch_of(0),
    )
    teacher, student, projector = pair.plain_weights()
    tokens_t, attentions_t = vit(teacher, batch.images, 4, depths[0])
    tokens_s, attentions_s = vit(student, batch.images, 2, depths[1])
    alignment = (project(projector, tokens_s[:, 0], 2) - tokens_t[:, 0]).square().mean()
    guidance = [pair.guidance(attentions_t[t], attentions_s[s]) for s, t in enumerate(matched)]
    agree(pair.student, pair.task(batch)["loss"], 0.7 * alignment + 0.3 * sum(guidance) / len(guidance))


@pytest.mark.parametrize("patch", [4, 8])
def test_guidance_by_value_norms_weighs_each_token_by_the_length_of_its_value(patch):
    pair, batch = (
        Pair(patch=patch, signal=("value_norms", {}), fields=("value_norms",), weights=(0.0, 1.0)),
        batch_of(0),
    )
    rows = []
    for weights, heads in zip(pair.plain_weights()[:2], (4, 2), strict=True):
        before, _ = block(embed(weights, batch.images), weights, "blocks.0", heads)
        _, attention = block(before, weights, "blocks.1", heads)
        weighted = attention[:, :, 0] * value_lengths(before, weights, "blocks.1", heads)
        rows.append(weighted / weighted.sum(-1, keepdim=True))
    plain_rows = vit(pair.plain_weights()[1], batch.images, 2, 2)[1][-1]
    assert (rows[1] - plain_rows).abs().max() > 0.01  # lengths differ, or nothing would be tested
    agree(pair.student, pair.task(batch)["loss"], pair.guidance(*rows))


@pytest.mark.parametrize("patch", [4, 8])
@pytest.mark.parametrize("alignment_weight", [0.0, 0.7])
def test_patch_token_alignment_is_the_squared_error_on_the_students_grid(patch, alignment_weight):
    pair, batch = (
        Pair(
            patch=patch,
            fields=("patch_tokens",),
            weights=(alignment_weight, 0.0),
            embedding=("patch_tokens", {"weight": 2.0}),
        ),
        batch_of(0),
    )
    teacher, student, projector = pair.plain_weights()
    tokens_t, tokens_s = vit(teacher, batch.images, 4, 2)[0], vit(student, batch.images, 2, 2)[0]
    axis = torch.eye(6, dtype=torch.float64) if patch == 4 else bicubic(6, pair.grid)
    wanted = torch.einsum("yi,xj,bijd->byxd", axis, axis, tokens_t[:, 1:].unflatten(1, (6, 6))).flatten(1, 2)
    patches = (project(projector, tokens_s[:, 1:], 2) - wanted).square().mean()
    alignment = (project(projector, tokens_s[:, 0], 2) - tokens_t[:, 0]).square().mean()
    agree(pair.student, pair.task(batch)["loss"], alignment_weight * alignment + 2.0 * patches)


@pytest.mark.parametrize("alignment_weight", [0.0, 0.7])
def test_compress_compares_similarities_to_the_last_images_of_the_updates_before(alignment_weight):
    """Five updates of two micro-batches, a queue of 7 for updates of 5 images: it wraps around in the third."""
    options = {"weight": 1.5, "queue_size": 7, "temperature": 0.3}
    pair = Pair(weights=(alignment_weight, 0.0), embedding=("compress", options))
    teacher, student, projector = pair.plain_weights()
    queue = list(pair.task.embedding.queue.clone())
    pair.task.train()
    for update in range(5):
        fresh = []
        for micro, size in enumerate((3, 2)):
            batch = batch_of(10 * update + micro, size)
            cls_t = vit(teacher, batch.images, 4, 2)[0][:, 0]
            projected = project(projector, vit(student, batch.images, 2, 2)[0][:, 0], 2)
            total = alignment_weight * (projected - cls_t).square().mean()
            for wanted, found in zip(cls_t, projected, strict=True):
                p, q = (
                    torch.stack([(row @ anchor) / row.square().sum().sqrt() / 0.3 for anchor in queue]).softmax(0)
                    for row in (wanted, found)
                )
                total = total + 1.5 * (p * (p / q).log()).sum() / size
                fresh.append((wanted / wanted.square().sum().sqrt()).detach())
            agree(pair.student, pair.task(batch)["loss"], total)
        queue = (queue + fresh)[-7:]
        pair.task.after_update()


# What is held against a reference here or, for the last block's attention, also in test_plain_references.py.
SIGNAL_REFERENCES = {
    "attention": test_guidance_by_all_layers_is_the_mean_over_the_students_blocks,
    "value_norms": test_guidance_by_value_norms_weighs_each_token_by_the_length_of_its_value,
}
EMBEDDING_REFERENCES = {
    "patch_tokens": test_patch_token_alignment_is_the_squared_error_on_the_students_grid,
    "compress": test_compress_compares_similarities_to_the_last_images_of_the_updates_before,
}


@pytest.mark.parametrize(
    ("registry", "references"),
    [(SIGNALS, SIGNAL_REFERENCES), (EMBEDDING_LOSSES, EMBEDDING_REFERENCES)],
    ids=lambda given: getattr(given, "kind", ""),
)
def test_every_registered_variant_has_a_reference_and_no_reference_outlives_its_variant(registry, references):
    assert set(registry.names()) == set(references)

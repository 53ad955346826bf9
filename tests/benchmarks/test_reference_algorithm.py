"""What the package is timed against computes the same losses and gradients: a faster step is no other method."""

import dataclasses

import pytest
import torch

from attndistill.losses.interpolation import interpolate_attention
from attndistill.targets import LiveTeacher
from benchmarks.configurations import Configuration, Pair, first_batch, made_up_images
from benchmarks.reference import interpolated

SIZES = {"embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0, "position": "learnable"}


def configuration(teacher_patch: int, student_patch: int, temperature: float | None) -> Configuration:
    teacher = SIZES | {"patch_size": teacher_patch, "embed_dim": 36, "depth": 2}
    student = SIZES | {"patch_size": student_patch}
    return Configuration("tiny", teacher, student, 32, 32, temperature, {"cpu": 5})


@pytest.mark.parametrize("temperature", [None, 3.0], ids=["heads one to one", "heads aggregated"])
@pytest.mark.parametrize("patches", [(8, 8), (4, 8)], ids=["equal grids", "unequal grids"])
def test_the_published_algorithm_has_the_packages_loss_and_gradients(patches, temperature):
    chosen = configuration(*patches, temperature)
    pair = Pair.built(chosen, torch.device("cpu"))
    pair.teacher.double()
    pair.student.double()
    batch = first_batch(made_up_images(chosen, 5), chosen)
    batch = dataclasses.replace(batch, images=batch.images.double())
    teach = LiveTeacher(pair.teacher, pair.device)
    grids = pair.teacher.patch_embed.grid_size, pair.student.backbone.patch_embed.grid_size
    log_attention = teach(batch).log_attention
    floored = interpolate_attention(log_attention, *grids).exp()
    torch.testing.assert_close(floored, interpolated(log_attention.exp(), *grids), rtol=1e-10, atol=0)

    reference, task = pair.reference(), pair.task(teach)
    ours, plain = task(batch), reference(batch.images)
    assert plain["attention"] > 1e-6
    for name, value in plain.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-10)
    ours["loss"].backward()
    plain["loss"].backward()
    for part, copy in ((pair.student.backbone, reference.student), (pair.student.projector, reference.projection)):
        expected = {name: parameter.grad for name, parameter in copy.named_parameters()}
        for name, parameter in part.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-14, msg=name)
    assert all(parameter.grad is None for parameter in reference.teacher.parameters())

"""Attention losses where the published code fails: underflow, overshoot, unequal grids, extreme temperatures."""

import math
from functools import partial

import pytest
import torch

from attndistill.losses import AGGREGATIONS, GUIDANCE
from attndistill.losses.aggregation import arithmetic_mean, geometric_mean, maximum, minimum
from attndistill.losses.guidance import clamp_probabilities, kl_divergence
from attndistill.losses.interpolation import interpolate_attention
from attndistill.losses.published import published_aggregation, published_interpolation

AGGREGATED = [name for name in AGGREGATIONS.names() if name != "none"]


def log_attention(*shape: int, spread: float = 1.0) -> torch.Tensor:
    return (spread * torch.randn(shape, dtype=torch.float64)).log_softmax(dim=-1)


def peaked(grid: tuple[int, int], at: int, share: float = 0.9) -> torch.Tensor:
    """(1, 1, 1 + N): nearly all mass on one patch, 5 % on the class token."""
    patches = math.prod(grid)
    attention = torch.full((1 + patches,), (1 - share - 0.05) / (patches - 1), dtype=torch.float64)
    attention[0], attention[1 + at] = 0.05, share
    return attention.log()[None, None]


@pytest.mark.parametrize("name", AGGREGATIONS.names())
@pytest.mark.parametrize("loss", GUIDANCE.names())
def test_a_head_that_underflows_to_zero_leaves_value_and_gradient_finite(name, loss):
    """The published code takes log(0) of such a head; in half precision whole maps become NaN."""
    logits = torch.zeros(2, 3, 10)
    logits[:, 1, 4] = 300.0  # exp(-300) is 0 in float32
    logits.requires_grad_()
    assert (logits.softmax(dim=-1) == 0).any()
    aggregate = AGGREGATIONS[name]
    value = GUIDANCE[loss](aggregate(torch.randn(2, 3, 10).log_softmax(-1)), aggregate(logits.log_softmax(-1)))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_one_blind_head_vetoes_a_patch():
    """AAG: a patch that one of three heads does not see is out; for max and mean the others outvote it."""
    seen, blind = math.log(0.5), math.log(1e-6)
    heads = torch.tensor([[[seen, seen], [seen, seen], [seen, blind]]], dtype=torch.float64)
    assert geometric_mean(heads, temperature=3.0)[0, 0, 1].exp() < 0.02
    assert minimum(heads, temperature=3.0)[0, 0, 1].exp() < 1e-5
    assert maximum(heads, temperature=3.0)[0, 0, 1].exp() == pytest.approx(0.5)
    assert arithmetic_mean(heads, temperature=3.0)[0, 0, 1].exp() == pytest.approx(0.4)


@pytest.mark.parametrize("name", AGGREGATED)
def test_heads_that_agree_are_their_own_aggregate_when_t_is_the_number_of_heads(name):
    head = log_attention(2, 1, 9)
    aggregated = AGGREGATIONS[name](head.repeat(1, 4, 1), temperature=4.0)
    torch.testing.assert_close(aggregated, head, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", AGGREGATED)
def test_a_large_temperature_tends_to_uniform_and_a_small_one_to_a_single_token(name):
    heads = log_attention(2, 4, 9)
    torch.testing.assert_close(
        AGGREGATIONS[name](heads, temperature=1e6).exp(),
        torch.full((2, 1, 9), 1 / 9, dtype=torch.float64),
        atol=1e-4,
        rtol=0,
    )
    assert AGGREGATIONS[name](heads, temperature=1e-3).exp().amax(dim=-1).min() > 0.99


def test_clamping_bounds_every_token_and_keeps_sums_of_one():
    clamped = clamp_probabilities(log_attention(2, 3, 50, spread=30.0), 1e-5, 0.996).exp()
    torch.testing.assert_close(clamped.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert clamped.min() > 0.99e-5
    moderate = log_attention(2, 3, 50)
    torch.testing.assert_close(clamp_probabilities(moderate, 1e-5, 0.996), moderate, rtol=1e-12, atol=1e-12)


def test_kl_is_summed_over_rows_and_averaged_over_the_batch():
    teacher, student = log_attention(4, 3, 8), log_attention(4, 3, 8)
    by_hand = sum(
        teacher[b, r, n].exp() * (teacher[b, r, n] - student[b, r, n])
        for b in range(4)
        for r in range(3)
        for n in range(8)
    )
    torch.testing.assert_close(kl_divergence(teacher, student), by_hand / 4)


def test_equal_grids_are_left_alone():
    heads = log_attention(2, 3, 1 + 12)
    assert interpolate_attention(heads, (3, 4), (3, 4)) is heads


@pytest.mark.parametrize("target", [(2, 2), (3, 5), (8, 8)])
def test_interpolation_keeps_the_class_token_s_share_and_the_mass_of_the_patches(target):
    heads = log_attention(2, 3, 1 + 16, spread=4.0)
    resampled = interpolate_attention(heads, (4, 4), target)
    assert resampled.shape == (2, 3, 1 + math.prod(target))
    torch.testing.assert_close(resampled[..., 0], heads[..., 0])
    torch.testing.assert_close(resampled.exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_interpolation_follows_rows_and_columns():
    """Attention in the top right corner stays there, also on a grid that is not square."""
    resampled = interpolate_attention(peaked((2, 6), at=5), (2, 6), (4, 3))[0, 0, 1:].unflatten(0, (4, 3))
    assert divmod(int(resampled.argmax()), 3) == (0, 2)
    assert resampled[:2].exp().sum() > 0.75


def test_where_bicubic_interpolation_does_not_undershoot_it_is_the_published_formula():
    heads = log_attention(2, 3, 1 + 36, spread=0.05)
    patches = heads[..., 1:].exp().unflatten(-1, (6, 6))
    resampled = torch.nn.functional.interpolate(patches, (3, 3), mode="bicubic", align_corners=False).flatten(-2)
    assert (resampled > patches.flatten(-2).amin(-1, keepdim=True)).all()
    expected = resampled / resampled.sum(-1, keepdim=True) * (1 - heads[..., :1].exp())
    torch.testing.assert_close(interpolate_attention(heads, (6, 6), (3, 3))[..., 1:].exp(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_peaked_map_whose_interpolation_overshoots_below_zero_stays_finite_through_aag(dtype):
    """The published code takes the log of the negative weight and drops the batch."""
    heads = peaked((4, 4), at=5).repeat(1, 3, 1).to(dtype)
    raw = torch.nn.functional.interpolate(
        heads[..., 1:].exp().unflatten(-1, (4, 4)), (8, 8), mode="bicubic", align_corners=False
    )
    assert raw.min() < 0
    teacher = geometric_mean(interpolate_attention(heads, (4, 4), (8, 8)))
    student = torch.randn(1, 3, 65, dtype=dtype, requires_grad=True)
    loss = kl_divergence(teacher, geometric_mean(student.log_softmax(-1)))
    loss.backward()
    assert teacher.isfinite().all()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_an_overshooting_map_is_floored_at_its_own_smallest_weight():
    heads = peaked((4, 4), at=5)
    resampled = interpolate_attention(heads, (4, 4), (8, 8))[..., 1:]
    spread = heads[..., 1:].amax() - heads[..., 1:].amin()
    assert resampled.amax() - resampled.amin() <= spread + 0.3  # bicubic may overshoot the peak a little


def test_a_map_whose_patches_underflow_entirely_keeps_its_shape_and_is_not_nan():
    logits = torch.tensor([200.0] + [0.0] * 15 + [5.0])  # all on the class token; of the rest, the last corner
    heads = logits.expand(1, 1, 17).log_softmax(-1)
    assert heads[..., 1:].exp().sum() == 0
    resampled = interpolate_attention(heads, (4, 4), (2, 2))[0, 0]
    assert resampled.isfinite().all()
    assert resampled[4] - resampled[1] > 2


def test_patches_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(ValueError, match="16 patches do not fill a 3 x 5 grid"):
        interpolate_attention(log_attention(1, 1, 17), (3, 5), (2, 2))


def test_the_published_log_before_the_clamp_has_a_gradient_that_is_not_a_number():
    """Forward it is ours to rounding: the defect shows in training alone."""
    logits = torch.zeros(1, 3, 10, dtype=torch.float64)
    logits[0, 1, 4] = 800.0  # exp(-800) is 0 in float64
    logits.requires_grad_()
    teacher = log_attention(1, 3, 10)
    published = partial(published_aggregation, aggregate=geometric_mean)
    ours, theirs = (kl_divergence(how(teacher), how(logits.log_softmax(-1))) for how in (geometric_mean, published))
    torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=0)
    assert torch.autograd.grad(ours, logits)[0].isfinite().all()
    assert torch.autograd.grad(theirs, logits)[0].isnan().any()


def test_the_published_interpolation_is_ours_where_nothing_overshoots_and_not_a_number_where_it_does():
    flat = log_attention(2, 3, 1 + 36, spread=0.05)
    for clamped_first in (True, False):
        found = published_interpolation(flat, (6, 6), (3, 3), clamped_first=clamped_first)
        torch.testing.assert_close(found, interpolate_attention(flat, (6, 6), (3, 3)))
    heads = peaked((4, 4), at=5)
    aggregated = geometric_mean(published_interpolation(heads, (4, 4), (8, 8), clamped_first=False))
    assert aggregated.isnan().all()
    student = log_attention(1, 1, 65)
    clamped = published_interpolation(heads, (4, 4), (8, 8), clamped_first=True)
    assert kl_divergence(clamped, student).isfinite()
    raw = torch.nn.functional.interpolate(
        heads[..., 1:].exp().unflatten(-1, (4, 4)), (8, 8), mode="bicubic", align_corners=False
    ).flatten(-2)
    weights = torch.cat([heads[..., :1].exp(), raw / raw.sum(-1, keepdim=True) * 0.95], dim=-1)
    torch.testing.assert_close(clamped.exp(), weights.clamp_min(0))


def test_published_rows_of_equal_grids_are_left_alone():
    heads = log_attention(2, 3, 1 + 12)
    assert published_interpolation(heads, (3, 4), (3, 4), clamped_first=False) is heads

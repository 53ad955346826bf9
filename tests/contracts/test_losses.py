"""What holds for every head aggregation and every attention loss, whatever is registered."""

import pytest
import torch

from attndistill.losses import AGGREGATIONS, GUIDANCE

EXTREMES = [-1e4, 0.0, 88.0, 300.0]


def rows(seed: int, heads: int = 4, tokens: int = 17) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, heads, tokens, generator=generator).log_softmax(dim=-1)


@pytest.mark.parametrize("name", AGGREGATIONS.names())
def test_an_aggregation_returns_log_probabilities_for_every_image(name):
    aggregated = AGGREGATIONS[name](rows(0))
    assert aggregated.shape[0] == 3
    assert aggregated.shape[2] == 17
    torch.testing.assert_close(aggregated.exp().sum(-1), torch.ones(aggregated.shape[:2]))


@pytest.mark.parametrize("name", sorted(set(AGGREGATIONS.names()) - {"none"}))
def test_an_aggregation_does_not_care_for_the_order_of_heads_and_yields_one_row(name):
    heads = rows(0)
    aggregated = AGGREGATIONS[name](heads)
    assert aggregated.shape[1] == 1
    torch.testing.assert_close(AGGREGATIONS[name](heads[:, [2, 0, 3, 1]]), aggregated)


@pytest.mark.parametrize("name", AGGREGATIONS.names())
def test_an_aggregation_moves_with_its_patches(name):
    heads, order = rows(0), torch.randperm(17)
    torch.testing.assert_close(AGGREGATIONS[name](heads[..., order]), AGGREGATIONS[name](heads)[..., order])


@pytest.mark.parametrize("name", AGGREGATIONS.names())
@pytest.mark.parametrize("extreme", EXTREMES)
def test_an_aggregation_of_extreme_logits_is_finite_with_finite_gradients(name, extreme):
    logits = torch.zeros(2, 3, 9)
    logits[0, 1, 4] = extreme
    logits.requires_grad_()
    aggregated = AGGREGATIONS[name](logits.log_softmax(-1))
    (gradient,) = torch.autograd.grad(aggregated.clamp_min(-50).sum(), logits)
    assert aggregated.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", GUIDANCE.names())
def test_an_attention_loss_is_zero_at_equality_and_positive_elsewhere(name):
    loss = GUIDANCE[name]
    assert loss(rows(0), rows(0)).item() == pytest.approx(0, abs=1e-6)
    assert all(loss(rows(0), rows(seed)) > 1e-3 for seed in range(1, 6))


@pytest.mark.parametrize("name", GUIDANCE.names())
def test_an_attention_loss_pulls_the_student_towards_the_teacher(name):
    teacher, student = rows(0), rows(1).requires_grad_()
    before = GUIDANCE[name](teacher, student.log_softmax(-1))
    (gradient,) = torch.autograd.grad(before, student)
    assert GUIDANCE[name](teacher, (student - 0.1 * gradient).log_softmax(-1)) < before


@pytest.mark.parametrize("name", GUIDANCE.names())
def test_an_attention_loss_is_a_mean_over_images(name):
    teacher, student = rows(0), rows(1)
    single = [GUIDANCE[name](teacher[i : i + 1], student[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(GUIDANCE[name](teacher, student), sum(single) / 3)


@pytest.mark.parametrize("name", GUIDANCE.names())
@pytest.mark.parametrize("extreme", EXTREMES)
def test_an_attention_loss_of_extreme_logits_is_finite_with_finite_gradients(name, extreme):
    teacher, student = torch.zeros(2, 1, 9), torch.zeros(2, 1, 9)
    teacher[0, 0, 1] = student[0, 0, 5] = extreme
    student.requires_grad_()
    loss = GUIDANCE[name](teacher.log_softmax(-1), student.log_softmax(-1))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()

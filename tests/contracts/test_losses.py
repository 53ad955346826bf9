"""What holds for every aggregation, attention loss, signal and embedding loss, whatever is registered."""

import pytest
import torch

from attndistill.core.features import Features
from attndistill.losses import AGGREGATIONS, EMBEDDING_LOSSES, GUIDANCE, SIGNALS
from attndistill.losses.embedding import Setting

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


def features(seed: int, depth: int = 3) -> Features:
    """Every field filled in."""
    generator = torch.Generator().manual_seed(seed)
    layers = tuple(rows(10 * seed + layer) for layer in range(depth))
    return Features(
        torch.randn(3, 8, generator=generator),
        layers[-1],
        torch.randn(3, 16, 8, generator=generator),
        layers,
        torch.rand(3, 4, 17, generator=generator),
    )


SIGNAL_CASES = [("attention", {}), ("attention", {"layers": "all"}), ("value_norms", {})]


def test_every_signal_is_a_case():
    assert {name for name, _ in SIGNAL_CASES} == set(SIGNALS.names())


@pytest.mark.parametrize(("name", "options"), SIGNAL_CASES, ids=str)
def test_a_signal_is_pairs_of_log_probabilities_of_the_teacher_and_of_the_student(name, options):
    pairs = SIGNALS.bind(name, options)(features(1, depth=4), features(2, depth=2))
    assert pairs
    for pair in pairs:
        for found in pair:
            torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, 4))
    teacher_again, student_again = SIGNALS.bind(name, options)(features(2, depth=2), features(1, depth=4))[-1]
    torch.testing.assert_close(pairs[-1], (student_again, teacher_again))  # last meets last, both made alike


@pytest.mark.parametrize(("name", "options"), SIGNAL_CASES, ids=str)
def test_a_signal_where_a_value_or_a_probability_vanishes_is_finite_with_finite_gradients(name, options):
    logits, lengths = torch.zeros(1, 2, 5), torch.ones(1, 2, 5)
    logits[0, 1, 3], lengths[0, 0, 2] = 300.0, 0.0
    logits.requires_grad_()
    lengths.requires_grad_()
    attention = logits.log_softmax(-1)
    given = Features(torch.zeros(1, 8), attention, None, (attention, attention), lengths)
    ((_, found), *_) = SIGNALS.bind(name, options)(given, given)
    gradients = torch.autograd.grad(found.clamp_min(-50).sum(), (logits, lengths), allow_unused=True)
    assert found.isfinite().all()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def embedding_loss(name: str) -> torch.nn.Module:
    small = {"queue_size": 32} if name == "compress" else {}
    return EMBEDDING_LOSSES.bind(name, small)(Setting(8, (4, 4), (4, 4), seed=0))


def projected(seed: int) -> Features:
    given = features(seed)
    return Features(given.cls_token, patch_tokens=given.patch_tokens)


@pytest.mark.parametrize("name", EMBEDDING_LOSSES.names())
def test_an_embedding_loss_is_zero_at_equality_and_positive_elsewhere(name):
    loss = embedding_loss(name)
    assert loss(features(0), projected(0)).item() == pytest.approx(0, abs=1e-6)
    assert all(loss(features(0), projected(seed)) > 1e-2 for seed in range(1, 6))


@pytest.mark.parametrize("name", EMBEDDING_LOSSES.names())
def test_an_embedding_loss_pulls_the_student_towards_the_teacher_and_averages_over_images(name):
    loss, teacher, given = embedding_loss(name), features(0), features(1)
    cls_token, patches = given.cls_token.requires_grad_(), given.patch_tokens.requires_grad_()
    before = loss(teacher, Features(cls_token, patch_tokens=patches))
    steps = torch.autograd.grad(before, (cls_token, patches), materialize_grads=True, allow_unused=True)
    after = loss(teacher, Features(cls_token - 0.01 * steps[0], patch_tokens=patches - 0.01 * steps[1]))
    assert after < before
    single = [
        loss(
            Features(teacher.cls_token[i : i + 1], patch_tokens=teacher.patch_tokens[i : i + 1]),
            Features(cls_token[i : i + 1], patch_tokens=patches[i : i + 1]),
        )
        for i in range(3)
    ]
    torch.testing.assert_close(before, sum(single) / 3)


@pytest.mark.parametrize("name", EMBEDDING_LOSSES.names())
def test_an_embedding_loss_has_the_same_state_for_the_same_seed_and_for_micro_batches(name):
    """A queue that filled up inside an update would make the size of a micro-batch part of the method."""
    whole, parts = embedding_loss(name), embedding_loss(name)
    for update in range(15):  # 45 images pass a queue of 32
        given = features(update)
        whole(given, projected(0))
        for i in range(3):
            parts(Features(given.cls_token[i : i + 1], patch_tokens=given.patch_tokens[i : i + 1]), projected_one(i))
        for loss in (whole, parts):
            loss.after_update()
    assert whole.state_dict().keys() == parts.state_dict().keys()
    assert all(torch.equal(value, parts.state_dict()[key]) for key, value in whole.state_dict().items())


def projected_one(index: int) -> Features:
    given = projected(0)
    return Features(given.cls_token[index : index + 1], patch_tokens=given.patch_tokens[index : index + 1])

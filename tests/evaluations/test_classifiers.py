"""What holds for every probe, by discovery, and k-NN against DINO's weighting written out plainly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from attndistill.evaluations import EVALUATIONS, evaluations
from attndistill.evaluations.classifiers import (
    Fit,
    LabelledFeatures,
    ProbeData,
    knn,
    logistic,
    logistic_mairal,
    logistic_scores,
    top_k,
)


def clusters(per_class: int, classes: int, spread: float, seed: int = 0, width: int = 8) -> LabelledFeatures:
    """Gaussian clusters around fixed, far centres, in shuffled order."""
    centres = 3 * np.random.default_rng(99).normal(size=(classes, width))
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(classes), per_class))
    features = centres[labels] + spread * generator.normal(size=(len(labels), width))
    return LabelledFeatures(features.astype(np.float32), labels.astype(np.int64))


def data(per_class: int = 30, classes: int = 6, spread: float = 0.1, tests: int = 10) -> ProbeData:
    train = clusters(per_class, classes, spread)
    return ProbeData(train, np.arange(0, len(train.labels), 5), clusters(tests, classes, spread, seed=1), classes)


def relabelled(part: LabelledFeatures, seed: int) -> LabelledFeatures:
    return replace(part, labels=np.random.default_rng(seed).permutation(part.labels))


@pytest.fixture(params=[one.name for one in evaluations().values() if one.on == "features"])
def probe(request):
    return EVALUATIONS[request.param]


def test_separable_features_are_told_apart_entirely(probe):
    result = probe(data())
    assert (result.top1, result.top5) == (100.0, 100.0)


def test_shuffled_training_labels_give_chance(probe):
    made = data(per_class=60, tests=60, spread=20.0)  # no clusters, or one vote would decide for all of a cluster
    result = probe(replace(made, train=relabelled(made.train, 5)))
    assert result.top1 == pytest.approx(100 / 6, abs=6)
    assert result.top5 == pytest.approx(500 / 6, abs=6)


def test_nothing_is_chosen_on_test(probe):
    """Other test labels, even adversarial ones, change the figures and never the chosen hyper-parameter."""
    hard = data(spread=4.0)
    result = probe(hard)
    others = [probe(replace(hard, test=relabelled(hard.test, seed))) for seed in range(3)]
    assert all(other.chosen == result.chosen for other in others)
    assert any(other.top1 != result.top1 for other in others)


@pytest.mark.parametrize(
    ("probe", "options", "chosen"),
    [(knn, {"neighbours": [1, 20]}, {"k": 20}), (logistic, {"strengths": [0.01, 1000.0]}, {"C": 0.01})],
)
def test_the_choice_is_made_on_images_the_probe_was_not_fitted_to(probe, options, chosen):
    """On images that it has seen, one neighbour and no regularisation are always right."""
    train, test = (clusters(count, 6, 9.0, seed, width=60) for seed, count in enumerate((60, 10)))
    assert probe(ProbeData(train, np.arange(0, 360, 5), test, 6), **options).chosen == chosen


def test_the_choice_is_the_best_on_validation_the_smallest_of_equals(probe):
    """Validation labels decide: what they reward is chosen. On separable features everything is equal."""
    (smallest,) = probe(data()).chosen.values()
    assert smallest == min(map(float, probe(data()).sweep))


def test_the_figure_is_the_sweep_s_entry_of_the_chosen_value_under_a_versioned_protocol(probe):
    result = probe(data(spread=4.0))
    (chosen,) = result.chosen.values()
    assert result.top1 == result.sweep[str(chosen)]
    assert result.top1 <= result.top5
    assert result.protocol.rpartition("-")[2].startswith("v")


def test_two_classes_have_a_top5_of_everything(probe):
    result = probe(data(classes=2))
    assert (result.top1, result.top5) == (100.0, 100.0)


def test_fewer_test_images_than_classes_are_judged(probe):
    made = data()
    few = LabelledFeatures(made.test.features[:2], made.test.labels[:2])
    assert probe(replace(made, test=few)).top1 == 100.0


def test_the_same_features_give_the_same_result_to_the_last_bit(probe):
    assert probe(data(spread=4.0)) == probe(data(spread=4.0))


def test_k_beyond_the_bank_takes_the_whole_bank():
    made = data(per_class=5, classes=3)
    result = knn(made, neighbours=[15, 1000])
    assert result.sweep["1000"] == result.sweep["15"]


def test_a_class_missing_from_train_is_never_predicted_and_costs_only_its_own_images():
    made = data(classes=4)
    kept = made.train.labels != 3
    train = LabelledFeatures(made.train.features[kept], made.train.labels[kept])
    short = ProbeData(train, np.arange(0, len(train.labels), 5), made.test, 4)
    for probe in (knn, logistic):
        assert probe(short).top1 == pytest.approx(75.0)


def dino_knn(train: LabelledFeatures, test: LabelledFeatures, classes: int, k: int, temperature: float) -> np.ndarray:
    """DINO's eval_knn for one k, an image at a time: the votes of every class."""
    votes = np.zeros((len(test.labels), classes))
    for row, feature in enumerate(test.features.astype(np.float64)):
        similarity = [
            float(feature @ other / np.linalg.norm(feature) / np.linalg.norm(other))
            for other in train.features.astype(np.float64)
        ]
        for neighbour in np.argsort(similarity)[::-1][:k]:
            votes[row, train.labels[neighbour]] += np.exp(similarity[neighbour] / temperature)
    return votes


def test_knn_is_dino_s_weighting_for_every_k():
    made = data(per_class=12, spread=6.0, tests=60)
    ks = [1, 2, 5, 20, 70]
    result = knn(made, neighbours=ks, temperature=0.07)
    for k in ks:
        votes = dino_knn(made.train, made.test, made.classes, k, 0.07)
        assert result.sweep[str(k)] == pytest.approx(100 * (votes.argmax(1) == made.test.labels).mean())
    chosen = dino_knn(made.train, made.test, made.classes, int(result.chosen["k"]), 0.07)
    five = np.argsort(-chosen, axis=1, kind="stable")[:, :5]
    assert result.top5 == pytest.approx(100 * (five == made.test.labels[:, None]).any(1).mean())
    assert len(set(result.sweep.values())) > 1  # the k matters here


def test_the_length_of_a_feature_does_not_matter_to_knn():
    made = data(spread=4.0)
    lengths = np.random.default_rng(0).uniform(0.1, 10, (len(made.train.labels), 1)).astype(np.float32)
    longer = replace(made, train=LabelledFeatures(made.train.features * lengths, made.train.labels))
    assert knn(longer).sweep == knn(made).sweep


def test_logistic_regression_does_not_care_for_scale_and_offset_of_a_feature():
    made = data(spread=4.0)
    scaled = [
        LabelledFeatures(part.features * np.float32(100) + np.float32(7), part.labels)
        for part in (made.train, made.test)
    ]
    assert logistic(replace(made, train=scaled[0], test=scaled[1])).sweep == logistic(made).sweep


def test_top_k_counts_the_k_best_and_gives_ties_to_the_lower_class():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0], [0.3, 0.3, 0.4]])
    labels = np.array([2, 1, 2])
    assert top_k(scores, labels, 1) == pytest.approx(100 / 3)
    assert top_k(scores, labels, 2) == pytest.approx(100)


def test_the_authors_logistic_regression_falls_far_below_chance_and_is_scikit_learns():
    """iBOT's script lost lambda's division by n: the objective stayed at ln(classes) and accuracy fell (ibot#21)."""
    from sklearn.linear_model import LogisticRegression

    draws = np.random.default_rng(0)
    labels = np.arange(400) % 4
    rows = 20 * (draws.normal(0, 0.5, (400, 8)) + np.eye(4, 8)[labels] * 2)  # lengths differ, directions tell
    part = LabelledFeatures(rows.astype(np.float32), labels)
    strength, unit = 10.0, rows.astype(np.float32).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    scores = logistic_scores(part, part, 4, Fit([strength], unit=True))[strength]
    plain = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000, tol=1e-7).fit(unit, labels)
    np.testing.assert_allclose(scores, plain.predict_proba(unit), rtol=1e-6)
    objective = -np.log(scores[np.arange(400), labels]).mean() + np.square(plain.coef_).sum() / (2 * 400 * strength)
    assert objective < 0.5 * np.log(4)
    longer = LabelledFeatures(part.features * np.linspace(0.1, 10, 400, dtype=np.float32)[:, None], labels)
    again = logistic_scores(longer, longer, 4, Fit([strength], unit=True))[strength]
    np.testing.assert_allclose(again, scores, atol=1e-4)
    assert logistic_mairal(ProbeData(part, np.arange(80), part, 4)).protocol == "logistic/dino-mairal-v2"


def test_every_strength_of_a_path_is_fitted_as_a_solver_of_another_kind_fits_it_alone():
    """Version 1 took no iteration at the largest C: its figure was that of the C before."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    strengths = [0.01, 0.1, 1.0, 10.0, 100.0]
    part, unseen = (clusters(count, 12, 8.0, seed, width=64) for seed, count in enumerate((60, 20)))
    found = logistic_scores(part, unseen, 12, Fit(strengths[::-1]))
    assert list(found) == strengths
    scaler = StandardScaler().fit(part.features.astype(np.float64))
    train, test = (scaler.transform(one.features.astype(np.float64)) for one in (part, unseen))
    for strength in strengths:
        alone = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        np.testing.assert_allclose(found[strength], alone.fit(train, part.labels).predict_proba(test), atol=5e-3)
    assert np.abs(found[100.0] - found[10.0]).max() > 0.05  # the last step of the path is one


def test_a_fit_that_its_iterations_end_is_reported(capsys):
    made = data(spread=8.0)
    logistic_scores(made.train, made.test, made.classes, Fit([1.0, 100.0], max_iterations=3))
    assert "logistic regression: C 100 ended after 3 iterations, above its tolerance" in capsys.readouterr().out


def test_a_fit_has_the_same_bits_whatever_threads_the_machine_offers():
    train = clusters(21_000 // 6, 6, 3.0, width=48)
    assert train.features.size > 1_000_000  # of so many, a fit may use several threads
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # runtime.threads
    try:
        found = []
        for offered in (1, 2):
            with threadpool_limits(offered, user_api="blas"):
                found.append(logistic_scores(train, train, 6, Fit([1.0], max_iterations=20, tolerance=1e-9))[1.0])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)

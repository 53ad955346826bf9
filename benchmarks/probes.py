"""The probes: k-NN beside a plain port of DINO's loop and scikit-learn's classifier; the path over C (`make bench`).

All ways of k-NN answer the same question: the top-1 of every k in the sweep, from 50,000 bank and 10,000 query features
of width 384 by default. What a reader would get wrong: scikit-learn's classifier answers one k a search.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attndistill.evaluations.classifiers import Fit, LabelledFeatures, knn_scores, logistic_scores, top_k
from benchmarks.timing import compared, interleaved

NEIGHBOURS = [10, 20, 100, 200]
STRENGTHS = [0.01, 0.1, 1.0, 10.0, 100.0]
TEMPERATURE = 0.07


def measure(
    *, repeats: int, bank: int, queries: int, width: int, classes: int, fitted: int, iterations: int
) -> dict[str, Any]:
    """All figures.

    Args:
        repeats: rounds.
        bank: features searched.
        queries: features asked about.
        width: of a feature.
        classes: of the labels.
        fitted: features of the logistic regression.
        iterations: at most, of L-BFGS for each C.
    """
    train, test = made_up_features(bank, width, classes, 1), made_up_features(queries, width, classes, 2)
    answers: dict[str, dict[int, float]] = {}

    def kept(name: str, ask: Callable[..., dict[int, float]]) -> Callable[[], None]:
        def work() -> None:
            answers[name] = ask(train, test, classes, NEIGHBOURS)

        return work

    ways = {"DINO's loop in torch": dino, "scikit-learn, a classifier for each k": classifier, "the package's": package}
    seconds = interleaved({name: kept(name, ask) for name, ask in ways.items()}, repeats, label="k-NN")
    part, unseen = made_up_features(fitted, width, classes, 1), made_up_features(1000, width, classes, 2)
    path = interleaved(
        {
            "each C from nothing": lambda: [_path(part, unseen, classes, [c], iterations) for c in STRENGTHS],
            "the package's path": lambda: _path(part, unseen, classes, STRENGTHS, iterations),
        },
        repeats,
        label="logistic regression",
    )
    return {
        "knn": {
            "features": [bank, queries, width],
            "top1": {name: {str(k): value for k, value in found.items()} for name, found in answers.items()},
            "ways": compared(seconds, "DINO's loop in torch", queries),
        },
        "logistic": {
            "features": [fitted, width],
            "iterations": iterations,
            "ways": compared(path, "each C from nothing", len(STRENGTHS)),
        },
    }


def made_up_features(count: int, width: int, classes: int, seed: int) -> LabelledFeatures:
    """Features of overlapping classes, the same classes for every seed."""
    centres = np.random.default_rng(0).standard_normal((classes, width))
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, count)
    features = centres[labels] + 5.0 * draws.standard_normal((count, width))
    return LabelledFeatures(features.astype(np.float32), labels)


def dino(train: LabelledFeatures, test: LabelledFeatures, classes: int, ks: Sequence[int]) -> dict[int, float]:
    """k-NN as DINO evaluates it: cosine similarities in a hundred parts, the whole loop once for each k."""
    bank = torch.nn.functional.normalize(torch.from_numpy(train.features))
    queries = torch.nn.functional.normalize(torch.from_numpy(test.features))
    labels, wanted = torch.from_numpy(train.labels), torch.from_numpy(test.labels)
    found = {}
    for k in ks:
        right = 0
        for part, truth in zip(
            queries.split(-(-len(queries) // 100)), wanted.split(-(-len(wanted) // 100)), strict=True
        ):
            similarity, index = (part @ bank.T).topk(k)
            one_hot = torch.nn.functional.one_hot(labels[index], classes)
            votes = (one_hot * (similarity / TEMPERATURE).exp()[..., None]).sum(dim=1)
            right += int((votes.argmax(dim=1) == truth).sum())
        found[k] = 100 * right / len(wanted)
    return found


def classifier(train: LabelledFeatures, test: LabelledFeatures, classes: int, ks: Sequence[int]) -> dict[int, float]:
    """scikit-learn's KNeighborsClassifier with DINO's weights."""
    from sklearn.neighbors import KNeighborsClassifier

    def weights(distance: NDArray[Any]) -> NDArray[Any]:
        return np.exp((1 - distance.astype(np.float64) ** 2 / 2) / TEMPERATURE)

    bank, queries = (_unit(part.features) for part in (train, test))
    models = {k: KNeighborsClassifier(k, weights=weights, algorithm="brute") for k in ks}
    return {k: 100 * float(model.fit(bank, train.labels).score(queries, test.labels)) for k, model in models.items()}


def package(train: LabelledFeatures, test: LabelledFeatures, classes: int, ks: Sequence[int]) -> dict[int, float]:
    """One search for every k."""
    scores = knn_scores(train, test, classes, list(ks), TEMPERATURE)
    return {k: top_k(scores[k], test.labels, 1) for k in ks}


def _path(
    train: LabelledFeatures, test: LabelledFeatures, classes: int, strengths: list[float], iterations: int
) -> object:
    return logistic_scores(train, test, classes, Fit(strengths, iterations))


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit

"""The probes: k-NN with DINO's weighting, and logistic regression, both on scikit-learn.

A probe chooses its own hyper-parameter (k, C) on the validation part of train and is judged once on test with it, so
nothing is tuned on test. Every result carries the protocol's name and version: a default cannot drift unseen
(published k-NN figures became irreproducible when a library moved the temperature from 0.1 to 0.07).

N images, D width, C classes.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attndistill.evaluations import EVALUATIONS

Scores = NDArray[np.float64]
_SMALL = 1_000_000  # features x images below which handing products to threads costs more than computing them


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of one split: (N, D) float32 and (N,) class numbers."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class ProbeData:
    """What a probe sees: train (and which part of it is for choosing hyper-parameters), test, number of classes."""

    train: LabelledFeatures
    validation: NDArray[np.int64]
    test: LabelledFeatures
    classes: int

    def split_train(self) -> tuple[LabelledFeatures, LabelledFeatures]:
        """(train without validation, validation)."""
        held_out = np.zeros(len(self.train.labels), dtype=bool)
        held_out[self.validation] = True
        return (
            LabelledFeatures(self.train.features[~held_out], self.train.labels[~held_out]),
            LabelledFeatures(self.train.features[held_out], self.train.labels[held_out]),
        )


@dataclass(frozen=True)
class ProbeResult:
    """One probe on one model: percent correct on test, the chosen hyper-parameter, and the sweep on test.

    `sweep` is shown for comparison with papers that report it; nothing is chosen by it.
    """

    protocol: str
    top1: float
    top5: float
    chosen: dict[str, float]
    sweep: dict[str, float]

    @property
    def figures(self) -> dict[str, float]:
        """By the names that the evaluation declares."""
        return {"top1": self.top1, "top5": self.top5}


@EVALUATIONS.register("knn", title="k-NN")
def knn(
    data: ProbeData,
    *,
    neighbours: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = [10, 20, 100, 200],  # noqa: B006
    temperature: Annotated[float, Field(gt=0)] = 0.07,
) -> ProbeResult:
    """Weighted k-NN (DINO's eval_knn): cosine similarity, votes of weight exp(similarity / temperature).

    One neighbour search serves every k. k larger than the bank takes the whole bank.
    """
    bank, held_out = data.split_train()
    on_validation = knn_scores(bank, held_out, data.classes, neighbours, temperature)
    chosen = max(neighbours, key=lambda k: (top_k(on_validation[k], held_out.labels, 1), -k))
    on_test = knn_scores(data.train, data.test, data.classes, neighbours, temperature)
    sweep = {str(k): top_k(on_test[k], data.test.labels, 1) for k in neighbours}
    top5 = top_k(on_test[chosen], data.test.labels, 5)
    return ProbeResult("knn/dino-v1", sweep[str(chosen)], top5, {"k": chosen}, sweep)


def knn_scores(
    bank: LabelledFeatures, queries: LabelledFeatures, classes: int, neighbours: list[int], temperature: float
) -> Mapping[int, Scores]:
    """k -> (queries, classes) votes, from one search for the largest k; k larger than the bank takes the whole bank."""
    from sklearn.neighbors import NearestNeighbors

    most = min(max(neighbours), len(bank.labels))
    search = NearestNeighbors(n_neighbors=most, algorithm="brute", metric="euclidean").fit(unit(bank.features))
    distance, index = search.kneighbors(unit(queries.features))
    similarity = 1 - distance.astype(np.float64) ** 2 / 2  # of unit vectors
    votes = np.exp(similarity / temperature)
    voted = bank.labels[index]
    scores = {}
    for k in neighbours:
        table = np.zeros((len(queries.labels), classes))
        np.add.at(table, (np.arange(len(table))[:, None], voted[:, :k]), votes[:, :k])
        scores[k] = table
    return scores


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays one."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    found: NDArray[np.float32] = features / np.maximum(norms, 1e-12)
    return found


@EVALUATIONS.register("logistic", title="Logistic regression")
def logistic(
    data: ProbeData,
    *,
    strengths: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [0.01, 0.1, 1.0, 10.0, 100.0],  # noqa: B006
    max_iterations: Annotated[int, Field(gt=0)] = 1000,
) -> ProbeResult:
    """Multinomial logistic regression (L-BFGS, L2) on features standardised by train's mean and deviation.

    C is chosen on the validation part of train; the final fit uses all of train. Each C starts from the last one's
    solution, weakest first. A fit that `max_iterations` ends is taken as it is: that too is the protocol.
    """
    chosen = strengths[0] if len(strengths) == 1 else _chosen_strength(data, sorted(strengths), max_iterations)
    final = logistic_scores(data.train, data.test, data.classes, sorted(strengths), max_iterations)
    sweep = {repr(c): top_k(scores, data.test.labels, 1) for c, scores in final.items()}
    top5 = top_k(final[chosen], data.test.labels, 5)
    return ProbeResult("logistic/standardised-lbfgs-v1", sweep[repr(chosen)], top5, {"C": chosen}, sweep)


def _chosen_strength(data: ProbeData, strengths: list[float], max_iterations: int) -> float:
    """The C that is best on the validation part of train; the smaller of equals."""
    fit_part, held_out = data.split_train()
    candidates = logistic_scores(fit_part, held_out, data.classes, strengths, max_iterations)
    return max(candidates, key=lambda c: (top_k(candidates[c], held_out.labels, 1), -c))


def logistic_scores(
    train: LabelledFeatures, queries: LabelledFeatures, classes: int, strengths: list[float], max_iterations: int
) -> dict[float, Scores]:
    """C -> (queries, classes) probabilities; each fit starts from the one before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(train.features.astype(np.float64))
    features, unseen = (scaler.transform(part.features.astype(np.float64)) for part in (train, queries))
    model = LogisticRegression(max_iter=max_iterations, warm_start=True)
    scores = {}
    for strength in strengths:
        with threadpool_limits(1 if features.size < _SMALL else None), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # max_iterations is the protocol's
            model.set_params(C=strength).fit(features, train.labels)
        table = np.full((len(unseen), classes), -np.inf)
        table[:, model.classes_] = model.predict_proba(unseen)
        scores[strength] = table
    return scores


def top_k(scores: Scores, labels: NDArray[np.int64], k: int) -> float:
    """Percent of rows whose label is among the k best scores; ties go to the lower class number."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(100 * (best == labels[:, None]).any(axis=1).mean())

"""The probes: k-NN with DINO's weighting, and logistic regression, both on scikit-learn.

A probe chooses its own hyper-parameter (k, C) on the validation part of train and is judged once on test with it, so
nothing is tuned on test. Every result carries the protocol's name and version: a default cannot drift unseen
(published k-NN figures became irreproducible when a library moved the temperature from 0.1 to 0.07).

N images, D width, C classes.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attndistill.core.progress import say
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
    further: dict[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """By the names that the evaluation declares; `further` ones beside the two of every probe."""
        return {"top1": self.top1, "top5": self.top5, **self.further}


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
    tolerance: Annotated[float, Field(gt=0)] = 1e-7,
) -> ProbeResult:
    """Multinomial logistic regression (L-BFGS, L2) on features standardised by train's mean and deviation.

    C is chosen on the validation part of train; the final fit uses all of train. Each C is fitted until no component
    of its objective's gradient (mean loss + |weights|^2 / (2 n C)) is above `tolerance`; it starts from the last one's
    solution, the smallest C first, which changes the time and not the fit. Version 1 stopped at 1e-4: at a large C the
    start passed for a fit, so its figure was that of the C before.
    """
    fit = Fit(strengths, max_iterations, tolerance, unit=False)
    return _regression(data, "logistic/standardised-lbfgs-v2", fit)


@EVALUATIONS.register("logistic_mairal", title="Logistic regression (DINO)")
def logistic_mairal(
    data: ProbeData,
    *,
    strengths: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [  # noqa: B006
        3.3,
        5.0,
        6.7,
        10.0,
        17.0,
        33.0,
        100.0,
    ],
    max_iterations: Annotated[int, Field(gt=0)] = 1000,
    tolerance: Annotated[float, Field(gt=0)] = 1e-7,
) -> ProbeResult:
    """Multinomial logistic regression as DINO, iBOT and Mugs report it: features of unit length, no intercept.

    It minimises the mean loss + lambda / (2 n) |weights|^2, so C is 1 / lambda whatever n; lambda is about 0.1. (iBOT's
    script lost the division by n: its objective stays at ln(classes).) The default strengths are Mugs' grid.
    """
    return _regression(data, "logistic/dino-mairal-v2", Fit(strengths, max_iterations, tolerance, unit=True))


@dataclass(frozen=True)
class Fit:
    """How logistic regression is fitted.

    Attributes:
        strengths: the values of C.
        max_iterations: of L-BFGS, for each C; a fit that they end is reported and taken as it is.
        tolerance: largest component of the objective's gradient at which a fit has ended.
        unit: features of length 1 and no intercept; else standardised features and an intercept.
    """

    strengths: list[float]
    max_iterations: int = 1000
    tolerance: float = 1e-7
    unit: bool = False


def _regression(data: ProbeData, protocol: str, fit: Fit) -> ProbeResult:
    """C is chosen on the validation part of train, the smaller of equals; the final fit uses all of train."""
    chosen = fit.strengths[0]
    if len(fit.strengths) > 1:
        fit_part, held_out = data.split_train()
        candidates = logistic_scores(fit_part, held_out, data.classes, fit)
        chosen = max(candidates, key=lambda c: (top_k(candidates[c], held_out.labels, 1), -c))
    final = logistic_scores(data.train, data.test, data.classes, fit)
    sweep = {repr(c): top_k(scores, data.test.labels, 1) for c, scores in final.items()}
    top5 = top_k(final[chosen], data.test.labels, 5)
    return ProbeResult(protocol, sweep[repr(chosen)], top5, {"C": chosen}, sweep)


def logistic_scores(train: LabelledFeatures, queries: LabelledFeatures, classes: int, fit: Fit) -> dict[float, Scores]:
    """C -> (queries, classes) probabilities, smallest C first."""
    import torch
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import Normalizer, StandardScaler
    from threadpoolctl import threadpool_limits

    # as many as runtime.threads says, so that sums are added in the same order everywhere; and not as many as there are
    # cores, which others may hold: a fit has been seen to take 25 times as long
    threads = 1 if train.features.size < _SMALL else torch.get_num_threads()
    scores = {}
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in our words
        scaler = (Normalizer() if fit.unit else StandardScaler()).fit(train.features.astype(np.float64))
        features, unseen = (scaler.transform(part.features.astype(np.float64)) for part in (train, queries))
        model = LogisticRegression(
            max_iter=fit.max_iterations, tol=fit.tolerance, warm_start=True, fit_intercept=not fit.unit
        )
        for strength in sorted(fit.strengths):
            model.set_params(C=strength).fit(features, train.labels)
            if model.n_iter_.max() >= fit.max_iterations:
                said = f"ended after {fit.max_iterations} iterations, above its tolerance"
                say(f"logistic regression: C {strength:g} {said}")
            table = np.full((len(unseen), classes), -np.inf)
            table[:, model.classes_] = model.predict_proba(unseen)
            scores[strength] = table
    return scores


def top_k(scores: Scores, labels: NDArray[np.int64], k: int) -> float:
    """Percent of rows whose label is among the k best scores; ties go to the lower class number."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(100 * (best == labels[:, None]).any(axis=1).mean())

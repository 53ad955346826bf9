"""A classifier out of a finished model: a probe that is kept, or the model fine-tuned, as one that timm opens.

Logistic regression is linear in the class token: with its standardisation folded in, it is timm's own `head`. So a
classifier is a timm folder like any other export, with class names beside it.
"""

import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attndistill.core.artifacts import digest_of
from attndistill.core.words import shown
from attndistill.data.manifest import read_manifest
from attndistill.data.store import open_split, validation_indices
from attndistill.evaluations import EVALUATIONS, Result
from attndistill.evaluations.judged import Judged
from attndistill.handover.models import Finished
from attndistill.library import execution_of
from attndistill.models.readout import read_features
from attndistill.training.checkpoint import Checkpoint

HEADS = ("logistic", "finetune")


@dataclass(frozen=True)
class Head:
    """What turns a feature into classes.

    Attributes:
        linear: on the feature.
        classes: names, in the order of its outputs.
        pooled: the norm over the mean of the patches, where the feature is that; None: the class token.
        logits: of normalised images, as this package computes them.
        protocol: by which it was fitted, and what was chosen.
        top1: percent of test images that are right.
    """

    linear: nn.Linear
    classes: tuple[str, ...]
    pooled: nn.Module | None
    logits: Callable[[Tensor], Tensor]
    protocol: str
    top1: float


def fit_head(finished: Finished, kind: str) -> tuple[Finished, Head]:
    """Fit a head by the experiment's own protocol, on its training images. Returns the model that it stands on, too.

    Args:
        finished: of an experiment.
        kind: "logistic": on frozen features; "finetune": the whole model learns.

    Raises:
        ValueError: another kind, a model of no experiment, images without labels, or a head that timm has no place for.
    """
    if kind not in HEADS:
        raise ValueError(f"head {shown(kind)!r}; allowed: {', '.join(HEADS)}")
    if finished.experiment is None:
        raise ValueError(f"{shown(finished.name)} is of no experiment: a head is fitted to an experiment's own images")
    manifest = read_manifest(finished.experiment.layout.data)
    if manifest.get("labelled") is False:
        raise ValueError("these images have no labels: a head cannot be fitted to them")
    chosen = finished.config.probe.chosen()
    if kind not in chosen:
        raise ValueError(f"probe.{kind} is off in this experiment; allowed: turn it on (docs/evaluations.md)")
    fit = _logistic if kind == "logistic" else _finetuned
    with tempfile.TemporaryDirectory(prefix="attndistill-head-") as scratch:
        judged = _judged(finished, manifest, Path(scratch))
        return fit(finished, judged, tuple(map(str, manifest["class_names"])), chosen[kind])


def _judged(finished: Finished, manifest: Mapping[str, Any], scratch: Path) -> Judged:
    assert finished.experiment is not None
    folder, data = finished.experiment.layout.data, finished.config.data
    return Judged(
        backbone=finished.backbone,
        projector=None,  # a head on a layer of P would have no place in timm's model
        layer=0,
        train=open_split(folder, "train"),
        test=open_split(folder, "test"),
        validation=validation_indices(folder),
        labelled=None,
        validation_fraction=data.validation_fraction,
        validation_seed=data.validation_seed,
        classes=len(manifest["class_names"]),
        views=finished.views,
        crop_share=finished.config.views.evaluation_crop,
        seed=finished.seed,
        inputs={},
        execution=execution_of(finished.config, "head"),
        checkpoint=lambda inputs: Checkpoint(scratch / digest_of(dict(inputs))[:16], digest_of(dict(inputs))),
    )


def _logistic(
    finished: Finished, judged: Judged, classes: tuple[str, ...], options: dict[str, Any]
) -> tuple[Finished, Head]:
    """C is chosen as in the probe; the fit is the probe's, with the standardisation folded into its weights."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data = judged.features
    result: Result = EVALUATIONS.bind("logistic", options)(data)
    strength = result.chosen["C"]
    scaler = StandardScaler().fit(data.train.features.astype(np.float64))
    model = LogisticRegression(C=strength, max_iter=options["max_iterations"], tol=options["tolerance"])
    model.fit(scaler.transform(data.train.features.astype(np.float64)), data.train.labels)
    width = data.train.features.shape[1]
    weight, bias = np.zeros((len(classes), width)), np.full(len(classes), -np.inf)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        rows, offsets = np.concatenate([-model.coef_ / 2, model.coef_ / 2]), np.array([-0.5, 0.5]) * model.intercept_
    else:
        rows, offsets = model.coef_, model.intercept_
    weight[model.classes_] = rows / scaler.scale_
    bias[model.classes_] = offsets - (rows / scaler.scale_) @ scaler.mean_
    linear = _linear(weight, np.maximum(bias, -1e30))

    def logits(images: Tensor) -> Tensor:
        found: Tensor = linear(read_features(finished.backbone, images).cls_token)
        return found

    scores = linear(torch.from_numpy(data.test.features)).argmax(dim=1).numpy()
    top1 = float(100 * (scores == data.test.labels).mean())
    return finished, Head(linear, classes, None, logits, f"{result.protocol}, C = {strength:g}", top1)


def _linear(weight: Any, bias: Any) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    return linear.requires_grad_(False)


class _Best:
    """Holds the weights of what is chosen, and no others."""

    def __init__(self) -> None:
        self.key = (-1.0, 0, 0.0)
        self.task: nn.Module | None = None
        self.state: dict[str, Tensor] = {}

    def see(self, key: tuple[float, int, float], task: nn.Module) -> None:
        if self.task is None or key > self.key:
            self.key, self.task = key, task
            self.state = {name: tensor.detach().cpu().clone() for name, tensor in task.state_dict().items()}


def _finetuned(
    finished: Finished, judged: Judged, classes: tuple[str, ...], options: dict[str, Any]
) -> tuple[Finished, Head]:
    """Every rate is run, as in the evaluation, and the model of the chosen rate and epoch is kept."""
    if options.get("keep_projector_layer"):
        raise ValueError("probe.finetune.keep_projector_layer: timm's model has no place for layers of P; allowed: 0")
    best = _Best()
    result: Result = EVALUATIONS.bind("finetune", options)(replace(judged, keep=best.see))
    task: Any = deepcopy(best.task)
    task.load_state_dict(best.state)
    task.cpu().float().eval()
    told = f"{result.protocol}, rate {result.chosen['rate']:g}, epoch {int(result.chosen['epoch'])}"
    backbone = task.backbone
    linear = task.head.requires_grad_(False)
    head = Head(linear, classes, task.norm if task.pooled else None, task.logits, told, result.figures["top1"])
    return replace(finished, backbone=backbone, path=None), head

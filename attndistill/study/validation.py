"""The student of a trial, made by the pipeline's own stages and judged on the validation part of train.

The only module of a search that calls stages. Test is never opened: the validation part of train stands in its place.
The students themselves see all of train, without labels, as in the pipeline: that is what the target cache holds. A
probe's own hyper-parameter (k, C, a rate, an epoch) is chosen on an inner validation part of the rest. Fine-tuning and
trained probes judge a student at the end of its trial alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attndistill.config import Config
from attndistill.core.artifacts import read_json
from attndistill.data.manifest import read_manifest
from attndistill.data.splits import stratified_subset
from attndistill.data.store import ChosenImages, ImageSet, validation_indices
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import LabelledFeatures, ProbeData
from attndistill.evaluations.embedding import embed_split
from attndistill.evaluations.judged import Judged
from attndistill.experiments import Experiment
from attndistill.models.description import weights_digest
from attndistill.models.storage import load_model
from attndistill.models.vit import count_parameters
from attndistill.outcomes import PARAMETERS, judged
from attndistill.stages import Item, attention, distill
from attndistill.stages.code import code_digest
from attndistill.stages.context import Context, Journal
from attndistill.stages.layout import MODELS, Layout
from attndistill.study.definition import Definition
from attndistill.tracking import Recorder
from attndistill.training.checkpoint import Checkpoint


def inputs_identity(experiment: Experiment, config: Config) -> dict[str, str]:
    """What the teacher's answers depend on, whatever the trial: teacher, data and views."""
    return Context(config, experiment.layout, "study", Item(), experiment.file, Recorder(None)).targets_identity


@dataclass(frozen=True)
class TrialLayout(Layout):
    """The experiment's data, teacher and targets; the student and all that is found about it in a folder of its own."""

    own: Path

    def model(self, name: str) -> Path:
        return super().model(name) if name in MODELS else self.own / "model"

    def attention(self, name: str) -> Path:
        return self.own / ("attention-teacher" if name in MODELS else "attention")

    def result(self, kind: str, name: str) -> Path:
        return self.own / "results" / f"{kind}{Path(name).suffix}"

    def work(self, stage: str, digest: str) -> Path:
        return self.own / "checkpoint" / digest[:16]

    @property
    def curves(self) -> dict[str, dict[str, list[list[float]]]]:
        """Seed -> curve -> points of the trained student."""
        found: dict[str, dict[str, list[list[float]]]] = read_json(self.result("training", "trial.json"))["curves"]
        return found


@dataclass(frozen=True)
class ValidationContext(Context):
    """A context whose "test" is the validation part of train, and whose "train" is the rest."""

    @cached_property
    def held_out(self) -> NDArray[np.int64]:
        """Places of the validation part in train."""
        return validation_indices(self.layout.data)

    def images(self, split: str) -> ImageSet:
        train = super().images("train")
        return ChosenImages(train, self.held_out if split == "test" else self._rest(len(train)))

    def _rest(self, count: int) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(count), self.held_out)

    def judge(self, backbone: nn.Module, images: ImageSet, objectives: Sequence[str]) -> dict[str, float]:
        """Objectives on the features before P: fitted on train without its validation part, judged on that part.

        Args:
            backbone: of a student.
            images: all of train.
            objectives: figures of evaluations that are given features; without any, features are checked alone.

        Raises:
            FloatingPointError: features are not finite, or too large to be compared.
        """
        found = embed_split(
            backbone,
            images,
            self.views,
            crop_share=self.config.views.evaluation_crop,
            batch_size=self.execution.evaluation_batch_size,
            device=self.execution.device,
            indices=None if objectives else self.held_out,
        )
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.square(found.features).sum(axis=1)  # in single precision, as a probe computes them
        if not np.isfinite(lengths).all():
            raise FloatingPointError("features of the student are infinite, NaN, or too large for their lengths")
        if not objectives:
            return {}
        data = self._held_out_data(found)
        chosen = [judged()[name] for name in objectives]
        names = {evaluation.name for evaluation, _ in chosen}
        results = {name: EVALUATIONS.bind(name, self._options(name))(data) for name in names}
        return {
            name: float(results[evaluation.name].figures[figure])
            for name, (evaluation, figure) in zip(objectives, chosen, strict=True)
        }

    def judge_trained(self, objectives: Sequence[str]) -> dict[str, list[float]]:
        """Objectives for which something is trained on labels, of each seed; as the probe stage does it, but on the
        validation part in the place of test, and on train without it."""
        chosen = {name: judged()[name] for name in objectives}
        found: dict[str, list[float]] = {name: [] for name in objectives}
        checkpoints: list[Checkpoint] = []
        for seed in self.config.seeds if objectives else ():
            model = self._judged(seed, checkpoints)
            results = {
                name: EVALUATIONS.bind(name, self._options(name))(model)
                for name in {evaluation.name for evaluation, _ in chosen.values()}
            }
            for name, (evaluation, figure) in chosen.items():
                found[name].append(float(results[evaluation.name].figures[figure]))
        for checkpoint in checkpoints:
            checkpoint.remove()
        return found

    def _judged(self, seed: int, checkpoints: list[Checkpoint]) -> Judged:
        """One seed's student; the checkpoints of what is trained for it are added to `checkpoints`."""
        weights, manifest, data = self.layout.weights("", seed), read_manifest(self.layout.data), self.config.data
        backbone, projector = load_model(weights)
        train = self.images("train")

        def checkpoint(inputs: Mapping[str, str]) -> Checkpoint:
            checkpoints.append(self.checkpoint(seed, inputs, "views", "probe"))
            return checkpoints[-1]

        return Judged(
            backbone=backbone,
            projector=projector,
            layer=0,
            train=train,
            test=self.images("test"),
            validation=self._inner(np.asarray(train.labels)),
            labelled=None,
            validation_fraction=data.validation_fraction,
            validation_seed=data.validation_seed,
            classes=len(manifest["class_names"]),
            views=self.views,
            crop_share=self.config.views.evaluation_crop,
            seed=seed,
            inputs={"model": weights_digest(weights), "data": manifest["digest"], "labels": "train without validation"},
            execution=self.execution,
            checkpoint=checkpoint,
        )

    def _options(self, evaluation: str) -> dict[str, Any]:
        """As configured for the pipeline; the evaluation's own defaults where it is turned off there."""
        return dict(self.config.probe.chosen().get(evaluation, {}))

    def _held_out_data(self, found: LabelledFeatures) -> ProbeData:
        rest = self._rest(len(found.labels))
        train, asked = (LabelledFeatures(found.features[part], found.labels[part]) for part in (rest, self.held_out))
        return ProbeData(train, self._inner(train.labels), asked, len(read_manifest(self.layout.data)["class_names"]))

    def _inner(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in train without its validation part on which a probe's own hyper-parameter is chosen."""
        data = self.config.data
        return stratified_subset(
            labels, data.validation_fraction, data.validation_seed, "inner validation", leave_one=True
        )


@dataclass(frozen=True)
class TrialStudent:
    """The student of one trial, in a layout of its own; `name` is the study's. A pruner raises in `journal`."""

    config: Config
    layout: TrialLayout
    experiment: Experiment
    name: str
    definition: Definition
    journal: Journal

    def train(self) -> None:
        """Distil it, from its checkpoint where there is one; the objectives on features are points of its curves."""
        if self.layout.result("training", "trial.json").exists():  # the last thing that `distill` writes
            return
        judge, definition = self._judge, self.definition
        context = Context(self.config, self.layout, "study", Item(self.name), self.experiment.file, self.journal)
        images = context.images("train")

        def look(seed: int, backbone: nn.Module, epoch: int) -> dict[str, float] | None:
            if epoch % definition.report_every and epoch != self.config.distill.recipe.epochs:
                return None
            found = judge.judge(backbone, images, definition.curves)
            return {f"validation_{name}": value for name, value in found.items()} or None

        distill.run(replace(context, code=code_digest(distill.__name__), look=look))

    def figures(self) -> dict[str, list[float]]:
        """Every figure a study can have for an objective, of each seed; pictures of its attention stay in the layout.

        Raises:
            FloatingPointError: one is not finite.
        """
        teacher = replace(self._judge, item=Item("teacher"), journal=Recorder(None))
        attention.run(teacher)
        attention.run(self._judge)
        seeds, maps = self.layout.curves.values(), read_json(self.layout.result("attention", "trial.json"))
        found = {name: [each[f"validation_{name}"][-1][1] for each in seeds] for name in self.definition.curves}
        found |= {name: maps[name]["values"] for name, (judge, _) in judged().items() if judge.on == "maps"}
        found |= self._judge.judge_trained(self.definition.trained)
        parameters = count_parameters(load_model(self.layout.weights("", self.config.seeds[0]))[0])
        found[PARAMETERS] = [float(parameters)] * len(seeds)
        for name, values in found.items():
            for value in values:
                if not math.isfinite(value):
                    raise FloatingPointError(f"{name} of the student is {value}")
        return found

    @property
    def _judge(self) -> ValidationContext:
        item = Item(self.definition.row)
        return ValidationContext(self.config, self.layout, "attention", item, self.experiment.file, self.journal)

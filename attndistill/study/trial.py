"""One trial: settings -> the pipeline's own stages, on the experiment's data, teacher and target cache -> figures.

Everything a trial makes lies in one folder named by its settings, checkpoints too. So a trial whose worker was killed
is resumed by whoever runs those settings next, and two trials of equal settings are never trained twice.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import optuna
import torch
from optuna.trial import TrialState
from torch import nn

from attndistill.config import Config
from attndistill.core.artifacts import read_json
from attndistill.models.storage import load_model
from attndistill.models.vit import count_parameters
from attndistill.stages.attention import attention
from attndistill.stages.code import code_digest
from attndistill.stages.context import Context
from attndistill.stages.distill import distill
from attndistill.study.address import without_passwords
from attndistill.study.definition import Choices, Distribution, FloatRange, Value
from attndistill.study.lost import heartbeat, sign
from attndistill.study.note import write_failed_note, write_note, write_pruned_note
from attndistill.study.recording import tag_inputs
from attndistill.study.search import Search, TrialLayout
from attndistill.study.validation import ValidationContext
from attndistill.tracking import Recorder

SAME_AS, REFUSED, ERROR = "same_as", "refused", "error"  # attributes of trials that were not trained to their end
FAILURES = (FloatingPointError, torch.OutOfMemoryError)  # of a trial's own settings: the search goes on


class TrialJournal:
    """Tells a trial's run its story, and the study the figures that a pruner looks at.

    Args:
        recorder: of the trial's run.
        trial: told a figure an evaluated epoch; None where nothing is pruned.
        curve: name of the figure.
        seeds: of the trial, in order.
        epochs: of one seed.
    """

    def __init__(self, recorder: Recorder, trial: optuna.Trial | None, curve: str, config: Config) -> None:
        self.recorder, self.trial, self.curve = recorder, trial, curve
        self.seeds, self.epochs = config.seeds, config.distill.recipe.epochs
        self.dataset, self.tag = recorder.dataset, recorder.tag

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Points of curves. Raises optuna.TrialPruned when the pruner gives the trial up."""
        self.recorder.metrics(values, step=step)
        for name, value in values.items():
            seed, _, curve = name.partition("/")
            if self.trial is None or curve != self.curve:
                continue
            done = self.seeds.index(int(seed.removeprefix("seed-"))) * self.epochs + step
            self.trial.report(value, done)
            if self.trial.should_prune():
                raise optuna.TrialPruned(f"after {done} of {self.epochs * len(self.seeds)} epochs")

    def artifact(self, path: Path, *, folder: str) -> None:
        """Keep pictures and figures; weights of trials are not kept."""
        if folder != "model":
            self.recorder.artifact(path, folder=folder)


def run_trial(search: Search, trial: optuna.Trial) -> list[float]:
    """The objectives of one trial.

    Raises:
        optuna.TrialPruned: given up by the pruner, or its settings do not fit together, or another trial has them.
        FloatingPointError, torch.OutOfMemoryError: a loss was not finite, or the student is too large for the device.
    """
    sign(trial)
    point = {key: _suggest(trial, key, distribution) for key, distribution in search.plan.definition.search.items()}
    with heartbeat(search.place, trial._trial_id):
        known = _twin(trial, point)
        if known is not None:
            return known
        try:
            config = search.plan.config(point)
        except ValueError as refusal:
            trial.set_user_attr(REFUSED, str(refusal))
            raise optuna.TrialPruned(str(refusal)) from None
        return _recorded(search, trial, point, config)


def _suggest(trial: optuna.Trial, key: str, distribution: Distribution) -> Value:
    if isinstance(distribution, Choices):
        return cast(Value, trial.suggest_categorical(key, distribution.choices))
    log = distribution.scale == "log"
    if isinstance(distribution, FloatRange):
        return trial.suggest_float(key, distribution.low, distribution.high, log=log)
    return trial.suggest_int(key, distribution.low, distribution.high, log=log)


def _twin(trial: optuna.Trial, point: Mapping[str, Value]) -> list[float] | None:
    """The figures of a finished trial of the same settings. Raises TrialPruned while another works on them."""
    states = (TrialState.COMPLETE, TrialState.RUNNING)
    for other in trial.study.get_trials(deepcopy=False, states=states):
        if other.number == trial.number or other.params != point:
            continue
        trial.set_user_attr(SAME_AS, other.number)
        if other.state == TrialState.COMPLETE:
            return list(other.values)
        raise optuna.TrialPruned(f"trial {other.number} has the same settings and is running")
    return None


def _recorded(search: Search, trial: optuna.Trial, point: Mapping[str, Value], config: Config) -> list[float]:
    """Run the trial inside a recording of its own, a child of the study's. A pruned run has ended well."""
    experiment, pruned = search.plan.experiment, None
    with Recorder.open(
        root=experiment.root,
        command="study",
        name=f"trial {trial.number}",
        experiment=experiment.name,
        config=config.plain(),
        argv=without_passwords(sys.argv),
        enabled=config.runtime.tracking,
    ) as recorder:
        recorder.tag("study.name", search.name)
        recorder.tag("study.trial", str(trial.number))
        for key, value in point.items():
            recorder.tag(f"study.param.{key}", str(value))
        values: list[float] = []
        try:
            values = _objectives(search, trial, point, config, recorder)
            tag_inputs(recorder, search.lineage)
            recorder.tag("study.state", "complete")
        except optuna.TrialPruned as reason:
            pruned = reason
            recorder.tag("study.state", f"pruned {reason}")
        except FAILURES as error:
            told = f"{type(error).__name__}: {error}"
            trial.set_user_attr(ERROR, told)
            write_failed_note(trial, told)
            raise
    if pruned is not None:
        raise pruned
    return values


def _objectives(
    search: Search, trial: optuna.Trial, point: Mapping[str, Value], config: Config, recorder: Recorder
) -> list[float]:
    definition, experiment = search.plan.definition, search.plan.experiment
    layout = TrialLayout(experiment.root, experiment.name, search.trial_folder(point))
    curve = f"validation_{definition.probe}_top1"
    journal = TrialJournal(recorder, trial if len(definition.objectives) == 1 else None, curve, config)
    common = (experiment.file, journal)
    told = ValidationContext(config, layout, "attention", definition.row, *common)
    images = Context(config, layout, "study", search.name, *common).images("train")

    def watch(seed: int, backbone: nn.Module, epoch: int) -> dict[str, float] | None:
        if epoch % definition.report_every and epoch != config.distill.recipe.epochs:
            return None
        return {curve: told.judge_backbone(backbone, images, definition.probe).top1}

    if not layout.result("training", "trial.json").exists():  # the last thing that `distill` writes
        try:
            code = code_digest("attndistill.stages.distill")
            distill(Context(config, layout, "study", search.name, *common, code=code, watch=watch))
        except optuna.TrialPruned as reason:
            write_pruned_note(search.place.artifacts, trial, layout, curve, str(reason))
            raise
    attention(told)
    figures = _figures(layout, config, curve, definition.probe)
    recorder.metrics(figures, step=0)
    write_note(search.place.artifacts, trial, layout, figures)
    return [figures[name] for name in definition.objectives]


def _figures(layout: TrialLayout, config: Config, curve: str, probe: str) -> dict[str, float]:
    """Every figure a study can have for an objective, from the files of the stages."""
    training: dict[str, Any] = read_json(layout.result("training", "trial.json"))
    backbone, _ = load_model(layout.weights("", config.seeds[0]))
    return {
        f"{probe}_top1": training["summary"][curve],  # the last point of the curve, its mean over seeds
        "kl_to_teacher": read_json(layout.result("attention", "trial.json"))["kl_to_teacher"]["mean"],
        "parameters": float(count_parameters(backbone)),
    }

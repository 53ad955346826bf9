"""One trial: settings -> a student (`validation`) -> figures, recorded; and how a trial ends that has none.

Everything a trial makes lies in one folder named by its settings, checkpoints too. So a trial whose worker was killed
is resumed by whoever runs those settings next, and two trials of equal settings are never trained twice.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import cast

import optuna
from optuna.trial import TrialState

from attndistill.config import Config
from attndistill.core.memory import memory_ran_out
from attndistill.core.secrets import hidden_in
from attndistill.core.words import shown
from attndistill.outcomes import Choices, Distribution, FloatRange, Value
from attndistill.study.lost import heartbeat, sign
from attndistill.study.outcome import BY_SEED, ERROR, REFUSED, SAME_AS
from attndistill.study.recording import tag_inputs, write_failed_note, write_note, write_pruned_note
from attndistill.study.search import Search
from attndistill.study.validation import TrialLayout, TrialStudent
from attndistill.tracking import Recorder


class TrialFailedError(Exception):
    """A trial's own settings have ended it: the search goes on."""


class TrialJournal:
    """Reports a trial's curves to its run, and the one that a pruner looks at (`curve`) to the `trial`, if any.

    Seeds are trained in order, so a pruner sees their epochs one after another.
    """

    def __init__(self, recorder: Recorder, trial: optuna.Trial | None, curve: str, config: Config) -> None:
        self.recorder, self.trial, self.curve = recorder, trial, curve
        self.seeds, self.epochs = config.seeds, config.distill.recipe.epochs
        self.dataset, self.tag, self.figures = recorder.dataset, recorder.tag, recorder.figures

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
        TrialFailedError: a loss, a weight or a figure was not finite, or the student is too large for the memory.
    """
    sign(trial)
    point = {key: _suggest(trial, key, distribution) for key, distribution in search.definition.search.items()}
    with heartbeat(search.place, trial._trial_id):
        known = _twin(trial, point)
        if known is not None:
            return known
        try:
            config = search.config(point)
        except ValueError as refusal:
            trial.set_user_attr(REFUSED, shown(refusal, 400))
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
            trial.set_user_attr(BY_SEED, other.user_attrs.get(BY_SEED))
            return list(other.values)
        raise optuna.TrialPruned(f"trial {other.number} has the same settings and is running")
    return None


def _recorded(search: Search, trial: optuna.Trial, point: Mapping[str, Value], config: Config) -> list[float]:
    """Run the trial inside a recording of its own, a child of the study's. A pruned run has ended well."""
    experiment, pruned = search.experiment, None
    with Recorder.open(
        root=experiment.project,
        command="study",
        name=f"trial {trial.number}",
        experiment=experiment.name,
        config=config.plain(),
        argv=hidden_in(sys.argv),
        enabled=config.runtime.tracking,
    ) as recorder:
        recorder.tag("study.name", search.stored_name)
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
        except (ArithmeticError, MemoryError, RuntimeError) as error:
            if not _is_the_trials(error):
                raise
            text = shown(f"{type(error).__name__}: {' '.join(str(error).split())}", 400)
            trial.set_user_attr(ERROR, text)
            write_failed_note(trial, text)
            raise TrialFailedError(text) from None
    if pruned is not None:
        raise pruned
    return values


def _is_the_trials(error: Exception) -> bool:
    """Whether the settings are at fault: they overflow, or ask for too much memory."""
    return isinstance(error, ArithmeticError) or memory_ran_out(error)


def _objectives(
    search: Search, trial: optuna.Trial, point: Mapping[str, Value], config: Config, recorder: Recorder
) -> list[float]:
    definition, experiment = search.definition, search.experiment
    layout = TrialLayout(experiment.folder, experiment.name, search.trial_folder(point))
    curve = f"validation_{definition.objectives[0]}"
    journal = TrialJournal(recorder, trial if len(definition.objectives) == 1 else None, curve, config)
    student = TrialStudent(config, layout, experiment, search.stored_name, definition, journal)
    try:
        student.train()
    except optuna.TrialPruned as reason:
        write_pruned_note(search.place.artifacts, trial, layout, curve, str(reason))
        raise
    each = student.figures()
    figures = {name: fmean(values) for name, values in each.items()}
    recorder.metrics(figures, step=0)
    write_note(search.place.artifacts, trial, layout, figures)
    trial.set_user_attr(BY_SEED, [each[name] for name in definition.objectives])
    return [figures[name] for name in definition.objectives]

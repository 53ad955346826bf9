"""Trials that are run again: what ended without a result of its own waits once more, under the same settings.

A worker that dies counts against its trial, since a trial that kills its worker every time must end. An interrupt does
not: a worker that is sent away in order may come back any number of times.
"""

import copy
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard._note import note_ver_key, save_note_with_version

RETRIES = 3  # of a trial whose worker died or whose call was refused
_COUNTED = "counted_retries"  # attribute of a trial: how many of its retries count against it


def retry_history(trial: FrozenTrial) -> list[int]:
    """Numbers under which a retried trial ran before; they are one trial of the plan."""
    history: list[int] = trial.system_attrs.get("retry_history", [])
    return history


def retry(study: optuna.Study, trial: FrozenTrial, reason: str, *, counted: bool = True) -> None:
    """Queue a failed trial once more, or say that it was run often enough; its note says why.

    Args:
        study: of the trial.
        trial: failed.
        reason: in a few words, for people.
        counted: whether this failure counts against the trial.
    """
    attributes: dict[str, Any] = copy.deepcopy(trial.system_attrs)  # a storage may hand out what it goes on using
    history = [*retry_history(trial), trial.number]
    lost = attributes.get(_COUNTED, 0) + counted
    if lost > RETRIES:
        _note(study, trial, f"{reason}; it is dropped after {lost} such ends")
        print(f"study {study.study_name}: trial {trial.number} is dropped after {lost} ends: {reason}", flush=True)
        return
    _note(study, trial, f"{reason}; it waits again, under another number")
    attributes |= {"failed_trial": history[0], "retry_history": history, _COUNTED: lost}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=copy.deepcopy(trial.user_attrs),
            system_attrs=attributes,
        )
    )


def give_back(study: optuna.Study, number: int, problem: BaseException) -> None:
    """Queue a trial once more that an interrupt or a refused call has ended; one with a result keeps it."""
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state == TrialState.RUNNING:  # interrupted before Optuna could note its end
        study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
        trial = study._storage.get_trial(trial._trial_id)
    if trial.state == TrialState.FAIL:
        interrupted = isinstance(problem, KeyboardInterrupt)
        retry(study, trial, "interrupted" if interrupted else f"ended by: {problem}", counted=not interrupted)


def retry_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    """What a database does with a trial whose heartbeat stopped."""
    retry(study, trial, "its worker was lost")


def _note(study: optuna.Study, trial: FrozenTrial, text: str) -> None:
    """A note for a trial that has ended: the dashboard's own function takes running ones only."""
    storage, place = study._storage, study._study_id
    version = storage.get_study_system_attrs(place).get(note_ver_key(trial._trial_id), 0)
    save_note_with_version(storage, place, trial._trial_id, version + 1, f"**Trial {trial.number}**: {text}")

"""A study's run in MLflow: one for all its calls, on any machine, with the trials below it.

The first call's run is the parent; its id is kept in the study. A later call, or another machine's, is a child of it,
and its trials are children of that. Calls that begin before MLflow has answered the first are told by the tag
`study.name`, which every run of the study has.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna

from attndistill.core.artifacts import read_json
from attndistill.stages.layout import Layout
from attndistill.study.address import without_passwords
from attndistill.study.search import Search, inputs_of
from attndistill.tracking import Recorder
from attndistill.tracking.address import tracking_uri

_PARENT = "mlflow_parent"  # attribute of a study: where its first call is recorded
_LAUNCHER = "MLFLOW_RUN_ID"  # set by `mlflow run`, read by the recorder


@contextmanager
def recorded(search: Search, study: optuna.Study) -> Iterator[Recorder]:
    """Record a call for the length of a `with` block; a later call is a child of the first."""
    plan, config = search.plan, search.plan.config({})
    with ExitStack() as stack:
        with _below(study.user_attrs.get(_PARENT)):
            recorder = stack.enter_context(
                Recorder.open(
                    root=plan.experiment.root,
                    command="study",
                    name=search.name,
                    experiment=plan.experiment.name,
                    config={**config.plain(), "study": plan.definition.plain()},
                    argv=without_passwords(sys.argv),
                    inputs=inputs_of(Layout(plan.experiment.root, plan.experiment.name)),
                    enabled=config.runtime.tracking,
                )
            )
        recorder.tag("study.name", search.name)
        yield recorder


@contextmanager
def _below(parent: dict[str, str] | None) -> Iterator[None]:
    """Meanwhile a recording becomes a child of that run, unless `mlflow run` has one for it already."""
    if parent is None or _LAUNCHER in os.environ or parent["uri"] != _shown_uri(tracking_uri()):
        yield
        return
    os.environ[_LAUNCHER] = parent["run"]
    try:
        yield
    finally:
        del os.environ[_LAUNCHER]


def publish(recorder: Recorder, study: optuna.Study) -> None:
    """Keep the id of the first call's run in the study, once MLflow has given it one.

    A run that `mlflow run` opened is ended by it, and takes no second recording while it runs: it is not kept.
    """
    if recorder.spool is None or _LAUNCHER in os.environ or _PARENT in study.user_attrs:
        return
    progress: dict[str, Any] = read_json(recorder.spool.progress) if recorder.spool.progress.exists() else {}
    if progress.get("run_id"):
        study.set_user_attr(_PARENT, {"run": progress["run_id"], "uri": _shown_uri(progress["uri"])})


def _shown_uri(uri: str) -> str:
    return without_passwords([uri])[0]


def tag_inputs(recorder: Recorder, lineage: Path | None) -> None:
    """Give a trial's run the md5 of its inputs, which the study's own run has read once for all of them."""
    path = None if lineage is None else lineage / "inputs.json"
    if path is None or not path.exists():
        return
    for name, entry in read_json(path)["inputs"].items():
        recorder.tag(f"lineage.input.{name}", entry["workspace"])

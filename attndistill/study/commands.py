"""The command that runs studies."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attndistill.experiments import Experiment
from attndistill.pipeline import make_deterministic
from attndistill.study.search import Search, read_search


def run_studies(
    files: Sequence[str],
    experiment: Experiment,
    overrides: Mapping[str, Any],
    *,
    storage: str | None,
    artifacts: str | None,
    workers: int,
) -> None:
    """Run every study file to its number of trials, one after another; all are checked before the first begins.

    Raises:
        ValueError: a mistake in a file, missing inputs, a storage that does not answer.
    """
    if workers < 1:
        raise ValueError(f"-j {workers}; allowed: 1 or more")
    for search in [read_search(Path(file), experiment, overrides, storage, artifacts) for file in files]:
        _run(search, workers)


def _run(search: Search, workers: int) -> None:
    from attndistill.study.outcome import outcome_folder, write_outcome
    from attndistill.study.recording import publish, recorded
    from attndistill.study.studies import load_study, prepare_study
    from attndistill.study.worker import work_side_by_side

    make_deterministic(search.config({}))
    study = prepare_study(search)
    started, limit = time.monotonic(), search.definition.timeout
    until = None if limit is None else started + limit
    with recorded(search, study) as recorder:
        mine = replace(search, lineage=None if recorder.spool is None else recorder.spool.lineage)
        try:
            work_side_by_side(mine, workers, until, lambda: publish(recorder, study))
        finally:
            written = write_outcome(search, load_study(search))
            if written is not None:
                recorder.artifact(outcome_folder(search), folder="study")
                print(f"study {search.stored_name}: {time.monotonic() - started:.0f} s; {written}", flush=True)
            publish(recorder, study)

"""The command that runs studies."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attndistill.core.ownership import owned
from attndistill.experiments import Experiment
from attndistill.pipeline import make_deterministic
from attndistill.study.search import Search, read_search
from attndistill.tracking import Recorder

WORKER = "attndistill.study.worker"


def run_studies(
    files: Sequence[str],
    experiment: Experiment,
    overrides: Mapping[str, Any],
    *,
    storage: str | None,
    artifacts: str | None,
    workers: int | None,
    on: str | None = None,
) -> None:
    """Run every study file to its number of trials, one after another; all are checked before the first begins.

    Args:
        files: studies.
        experiment: that they search on.
        overrides: dotted key -> value, from the command line.
        storage: address or journal file; None: sqlite.
        artifacts: folder of pictures.
        workers: on this machine, one by default; with `on`, of all that it gives, all by default.
        on: the file that says where workers run.

    Raises:
        ValueError: a mistake in a file, missing inputs, a storage that does not answer.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"-j {workers}; allowed: 1 or more")
    searches = [read_search(Path(file), experiment, overrides, storage, artifacts) for file in files]
    places = (storage, artifacts)
    elsewhere = [
        _elsewhere(search, Path(file), workers, on, places) if on else None
        for file, search in zip(files, searches, strict=True)
    ]
    for search, work in zip(searches, elsewhere, strict=True):
        _run(search, workers or 1, work)


Work = Callable[[Search, Recorder, float | None, Callable[[], None]], None]


def _elsewhere(search: Search, file: Path, most: int | None, on: str, places: tuple[str | None, str | None]) -> Work:
    """What works on a study with an engine's workers; the file of `--on` is checked before."""
    from attndistill.engine.board import Board
    from attndistill.engine.driver import boards, drive, plan_of
    from attndistill.engine.on import Local, read_on
    from attndistill.engine.work import Job

    where = read_on(on, search.experiment.project)
    if search.place.address.startswith("sqlite") and not isinstance(where, Local):
        raise ValueError(
            "--on: several machines do not share sqlite; allowed: --storage with a journal file or a database"
        )
    board = Board(boards(search.experiment.folder) / search.stored_name)

    def work(mine: Search, recorder: Recorder, until: float | None, look: Callable[[], None]) -> None:
        given = {
            "folder": str(search.experiment.folder),
            "file": str(file.absolute()),
            "overrides": dict(search.overrides),
            "storage": places[0],
            "artifacts": places[1],
            "lineage": None if mine.lineage is None else str(mine.lineage),
            "seconds": None if until is None else max(0.0, until - time.monotonic()),
        }
        count = min(most or where.capacity, max(1, search.definition.trials))
        jobs = [Job(f"worker {number}", (), f"{WORKER}:work_elsewhere", given) for number in range(1, count + 1)]
        with owned(board.folder, "driving this study"):
            board.begin(plan_of(f"study {search.stored_name}", jobs))
            drive(jobs, where, board, recorder, look)

    return work


def _run(search: Search, workers: int, elsewhere: Work | None) -> None:
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
            if elsewhere:
                elsewhere(mine, recorder, until, lambda: publish(recorder, study))
            else:
                work_side_by_side(mine, workers, until, lambda: publish(recorder, study))
        finally:
            written = write_outcome(search, load_study(search))
            if written is not None:
                recorder.artifact(outcome_folder(search), folder="study")
                print(f"study {search.stored_name}: {time.monotonic() - started:.0f} s; {written}", flush=True)
            publish(recorder, study)

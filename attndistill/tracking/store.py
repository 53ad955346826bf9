"""The MLflow side: which run a recording belongs to, and how its events get there. Only this module imports mlflow.

What belongs together is found together. Each stage has a run of its own, below one parent for each `dvc repro`,
pipeline, `mlflow run` or study, whose metrics are that call's table (`attndistill.knn_top1`). What is measured of a row
later (k-NN, attention) is also logged to the run that made the row's model, found by the md5 of what it made: so
MLflow's table filtered by `tags.stage = 'distill'`, and its compare page, show settings, losses and accuracies of a row
in one line, also when DVC took half of the stages from its cache. A parent for each row would lose just that: its
stages come from several calls, and metrics of children do not count among a parent's.

MlflowClient alone, never the fluent API: that one keeps a process-wide active run, reads MLFLOW_RUN_ID by itself, and
ends runs at exit, which a run opened by `mlflow run` must not have done to it.
"""

import json
import logging
import os
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from attndistill.core.artifacts import digest_of
from attndistill.core.secrets import hidden
from attndistill.tracking.address import sqlite_file
from attndistill.tracking.call import Call
from attndistill.tracking.moved import check_database, follow_a_move, place_of
from attndistill.tracking.note import note_of
from attndistill.tracking.spool import Dataset as DatasetEvent
from attndistill.tracking.spool import Description, Figures

DEFAULT = "0"  # the id of MLflow's experiment "Default"
PARENT, NOTE, NOTED = "mlflow.parentRunId", "mlflow.note.content", "attndistill.note"
COMMIT = "mlflow.source.git.commit"  # MLflow's column "Version"
_BY_CHANCE = re.compile(r"[a-z]+-[a-z]+-\d+")  # MLflow's names: dapper-fox-12
RECORDING = "attndistill.recording"  # the tag by which a run is found again if its id was lost in a crash
PARAM_AT_MOST, TAG_AT_MOST, KEY_AT_MOST, DIGEST_AT_MOST = 6000, 8000, 250, 36  # characters, MLflow's limits
PARAMS_A_BATCH, METRICS_A_BATCH = 100, 1000
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds; MLflow's own 120, seven times over, is an afternoon
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def import_mlflow(uri: str) -> None:
    """Import MLflow's client with our settings and, for an address of a database, what takes it as long again."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient as MlflowClient

    if sqlite_file(uri) is not None:
        from mlflow.store.tracking import sqlalchemy_store as sqlalchemy_store
        from sqlalchemy.orm import configure_mappers

        configure_mappers()


class Store:
    """One tracking store. Creating it creates or migrates a sqlite database, one process at a time."""

    def __init__(self, uri: str) -> None:
        import_mlflow(uri)
        from mlflow import MlflowClient

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri = uri
        self.database = sqlite_file(uri)
        if self.database is None:
            self.client = MlflowClient(uri, os.environ.get("MLFLOW_REGISTRY_URI", uri))
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        # the client's constructor already creates the tables: of four at once on a missing database, three would die
        with FileLock(f"{self.database}.lock"):
            check_database(self.database)
            self.client = MlflowClient(uri, os.environ.get("MLFLOW_REGISTRY_URI", uri))
            follow_a_move(self.database)

    def open_run(self, told: Description, *, parent_waits: bool, lock: Path) -> str:
        """The id of the recording's run: the one it already has, the launcher's, or a new one, with its first words.

        Args:
            told: by the recording.
            parent_waits: whether the enclosing recording has yet to be sent. Raises LookupError if so and it is needed.
            lock: held while the parent of a call of DVC is looked for and made.
        """
        launcher = self._run(told.launcher_run_id) if told.launcher_run_id and not told.enclosing else None
        # `mlflow run` without --experiment-name, and no run can move: ours lies with the others, each names the other
        lost = launcher is not None and launcher.info.experiment_id == DEFAULT and told.experiment != "Default"
        run = self._recorded(told.id)
        parent = None
        if told.enclosing:
            parent = self._recorded(told.enclosing)
            if run is None and parent is None and parent_waits:
                raise LookupError("its enclosing run is not in MLflow yet")
        elif launcher is not None and not lost:
            if run is None and _launched_for(launcher, told):
                self.log_tags(launcher.info.run_id, {RECORDING: told.id, "attndistill.attached": "yes"})
                run = self._named(launcher, told.name)
            parent = launcher
        elif told.call is not None:
            parent = self._call(told, told.call, lock)
        if run is None:
            run = self._create(told, parent)
        run_id = str(run.info.run_id)
        self.log_tags(run_id, _first_tags(told))
        self.log_params(run_id, told.config if told.changes is None else told.changes)
        if lost and launcher is not None:
            self._link(launcher, run if told.call is None else parent, told)
        return run_id

    def log_params(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Add the configuration. Params are immutable: what the launcher has already logged stays as it is."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = {key: value for key, value in flattened(config).items() if key not in known}
        entities = [Param(key, shortened(value, PARAM_AT_MOST)) for key, value in new.items()]
        for start in range(0, len(entities), PARAMS_A_BATCH):
            self.client.log_batch(run_id, params=entities[start : start + PARAMS_A_BATCH])

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(allowed_key(key), shortened(value, TAG_AT_MOST)) for key, value in tags.items()]
        for start in range(0, len(entities), PARAMS_A_BATCH):
            self.client.log_batch(run_id, tags=entities[start : start + PARAMS_A_BATCH])

    def log_metrics(self, run_id: str, points: Iterable[tuple[str, float, int, int]]) -> None:
        """Add points (key, value, time in ms, step). A point that is already there stays one point."""
        from mlflow.entities import Metric

        entities = [Metric(allowed_key(key), value, time, step) for key, value, time, step in points]
        for start in range(0, len(entities), METRICS_A_BATCH):
            self.client.log_batch(run_id, metrics=entities[start : start + METRICS_A_BATCH])

    def log_figures(self, run_id: str, told: Description, figures: Figures) -> None:
        """Add figures: plain to a run of their own item, under the item's name to the parent's table."""
        own = figures.item == told.item
        self.log_metrics(run_id, _points(figures, "" if own else f"{figures.item}.", seeds=own))
        parent = self.active(self.client.get_run(run_id).data.tags.get(PARENT))
        if parent is not None and figures.item:
            self.log_metrics(parent.info.run_id, _points(figures, f"{figures.item}.", seeds=False))

    def log_producers(self, run_id: str, inputs: Mapping[str, str]) -> None:
        """Name, for each input (path -> md5), the latest run that made it."""
        found = {path: self.found(f"output.{path}", md5) for path, md5 in inputs.items()}
        self.log_tags(run_id, {f"input_run.{path}": run.info.run_id for path, run in found.items() if run})

    def log_to_model(self, run_id: str, told: Description, figures: Sequence[Figures]) -> None:
        """Add figures of the run's own item to the run that made the model, beside its losses."""
        tags = self.client.get_run(run_id).data.tags
        for key, producer in tags.items():
            run = self.active(producer) if key.startswith("input_run.") else None
            if run is None or not told.item or run.data.tags.get("row") != told.item:
                continue
            for event in figures:
                if event.item == told.item:
                    self.log_metrics(producer, _points(event, "", seeds=True))
            self.describe(producer)

    def log_dataset(self, run_id: str, event: DatasetEvent) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=event.name,
            digest=event.digest[:DIGEST_AT_MOST],
            source_type="local",
            source=json.dumps({"uri": event.source}),
            profile=json.dumps(event.profile) if event.profile else None,
        )
        tags = [InputTag("mlflow.data.context", event.context)]
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Add a file, or a directory under its own name."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), "/".join(filter(None, [folder, path.name])))
        else:
            self.client.log_artifact(run_id, str(path), folder or None)

    def describe(self, run_id: str) -> None:
        """Write the run's description, unless somebody has written another one."""
        run = self.client.get_run(run_id)
        tags, text = run.data.tags, shortened(note_of(run), TAG_AT_MOST)
        if NOTE not in tags or tags.get(NOTED) == digest_of(tags[NOTE]):
            self.log_tags(run_id, {NOTE: text, NOTED: digest_of(text)})

    def end(self, run_id: str, told: Description, status: str, time: int) -> None:
        """End the run. One that was attached to is left to its launcher, unless its process was killed.

        The parent of a call of DVC, of which nobody hears when it ends, has ended with the last of its runs.
        """
        run = self.client.get_run(run_id)
        attached = run.data.tags.get("attndistill.attached") == "yes"
        if run.info.status == "RUNNING" and (not attached or status == "KILLED"):
            self.client.set_terminated(run_id, status=status, end_time=time)
        self.describe(run_id)
        parent = self.active(run.data.tags.get(PARENT))
        if parent is None:
            return
        if told.call is not None and parent.data.tags.get(RECORDING) == _key(told, told.call):
            self.log_tags(parent.info.run_id, {key: run.data.tags[key] for key in (COMMIT,) if key in run.data.tags})
            children = self.client.search_runs(
                [parent.info.experiment_id], f"tags.`{PARENT}` = '{parent.info.run_id}'", max_results=1000
            )
            states = {child.info.status for child in children}
            if "RUNNING" not in states:
                ended = "FAILED" if states & {"FAILED", "KILLED"} else "FINISHED"
                self.client.set_terminated(parent.info.run_id, status=ended, end_time=time)
        self.describe(parent.info.run_id)

    def active(self, run_id: str | None) -> Any:
        """A run that takes metrics and tags; None for a deleted one or none."""
        run = self._run(run_id) if run_id else None
        return run if run is not None and run.info.lifecycle_stage == "active" else None

    def _create(self, told: Description, parent: Any) -> Any:
        tags = {
            RECORDING: told.id,
            "mlflow.user": told.user,
            "mlflow.source.name": f"attndistill {told.command}",
            "mlflow.source.type": "LOCAL",
        }
        experiment = self.experiment(told.experiment) if parent is None else parent.info.experiment_id
        if parent is not None:
            tags[PARENT] = parent.info.run_id
        return self.client.create_run(experiment, start_time=told.started_ms, tags=tags, run_name=told.name)

    def _call(self, told: Description, call: Call, lock: Path) -> Any:
        """The parent of a call of DVC, made by whichever of its stages comes first; it runs as long as one of them."""
        key = _key(told, call)
        with FileLock(lock):
            run = self._recorded(key)
            if run is None:
                tags = {
                    RECORDING: key,
                    "mlflow.user": told.user,
                    "mlflow.source.name": call.command,
                    "mlflow.source.type": "LOCAL",
                    "attndistill.command": call.command,
                    "stage": "dvc",
                    **({"dvc.experiment": told.dvc_experiment} if told.dvc_experiment else {}),
                }
                experiment = self.experiment(told.experiment)
                run = self.client.create_run(experiment, start_time=told.started_ms, tags=tags, run_name=call.name)
            elif run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
        return run

    def _named(self, launcher: Any, name: str) -> Any:
        """A launcher's run under our name, where MLflow gave it one by chance."""
        if _BY_CHANCE.fullmatch(launcher.info.run_name or ""):
            self.client.update_run(launcher.info.run_id, name=name)
        return launcher

    def _link(self, launcher: Any, run: Any, told: Description) -> None:
        run_id, name = run.info.run_id, run.info.run_name
        self.log_tags(run_id, {"attndistill.launcher": launcher.info.run_id})
        self._named(launcher, name)
        place = f"#/experiments/{run.info.experiment_id}/runs/{run_id}"
        text = f"Started [{name}]({place}), which is recorded in experiment {told.experiment}."
        tags = _first_tags(told) if told.call is None else {}
        self.log_tags(launcher.info.run_id, {**tags, "attndistill.run": run_id, NOTE: text})

    def experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                raise ValueError(f"experiment {name!r} is deleted in {hidden(self.uri)}: restore it, or name another")
            return str(found.experiment_id)
        place = None if self.database is None else place_of(self.database, name)
        try:
            return str(self.client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(self.client.get_experiment_by_name(name).experiment_id)  # another process was quicker

    def _recorded(self, recording: str) -> Any:
        return self.found(RECORDING, recording)

    def found(self, tag: str, value: str) -> Any:
        """The latest run with a tag of that value, in any experiment."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments(max_results=1000)]
        asked = f"tags.`{allowed_key(tag)}` = '{value}'"
        runs = self.client.search_runs(experiments, asked, max_results=1, order_by=["attributes.start_time DESC"])
        return runs[0] if runs else None

    def _run(self, run_id: str) -> Any:
        return if_there(self.client.get_run, run_id)  # none: left in the environment, or of another store


def if_there(get: Callable[[str], Any], name: str) -> Any:
    """What MLflow has of that name or number; None where it has none."""
    from mlflow.exceptions import MlflowException

    try:
        return get(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested configuration as dotted keys; text stays text, everything else is written as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{name}.")
        else:
            flat[allowed_key(name)] = value if isinstance(value, str) else json.dumps(value)
    return flat


def allowed_key(key: str) -> str:
    """`key` with what MLflow refuses in a name replaced by an underscore."""
    return "".join(letter if letter.isalnum() or letter in "_-. /:" else "_" for letter in key)[:KEY_AT_MOST]


def shortened(value: str, length: int) -> str:
    """`value`, cut with an ellipsis where it is longer than `length` characters."""
    return value if len(value) <= length else value[: length - 1] + "…"


def _first_tags(told: Description) -> dict[str, str]:
    tags = {
        "attndistill.command": told.command,
        "attndistill.params": "all" if told.changes is None else "changes",
        "stage": told.command,
        "row": told.item,
        "seeds": ", ".join(map(str, told.seeds)),
        "dvc.experiment": told.dvc_experiment or "",
    }
    return {key: value for key, value in tags.items() if value}


def _key(told: Description, call: Call) -> str:
    """One call of DVC may run stages of several experiments: a parent for each."""
    return f"{call.key}-{digest_of(told.experiment)[:8]}"


def _points(figures: Figures, prefix: str, *, seeds: bool) -> list[tuple[str, float, int, int]]:
    """Mean, sample deviation (of two seeds or more) and n of each figure, and each seed's beside them."""
    found: dict[str, float] = {}
    for name, by_seed in figures.values.items():
        values = list(by_seed.values())
        if values:
            found |= {f"{prefix}{name}": statistics.fmean(values), f"{prefix}{name}_n": float(len(values))}
        if len(values) > 1:
            found[f"{prefix}{name}_sd"] = statistics.stdev(values)
        if seeds:
            found |= {f"seed-{seed}/{name}": value for seed, value in by_seed.items()}
    return [(key, value, figures.time, 0) for key, value in found.items()]


def _launched_for(run: Any, description: Description) -> bool:
    """Whether `mlflow run` opened this run for this very command, and had not ended it when the command began."""
    entry_point = run.data.tags.get("mlflow.project.entryPoint")
    running = run.info.status == "RUNNING" or (run.info.end_time or 0) >= description.started_ms
    return bool(entry_point == description.command and running)

"""The MLflow side: which run a recording belongs to, and how its events get there. Only this module imports mlflow.

MlflowClient alone, never the fluent API: that one keeps a process-wide active run, reads MLFLOW_RUN_ID by itself, and
ends runs at exit, which a run opened by `mlflow run` must not have done to it.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from attndistill.tracking.address import sqlite_file
from attndistill.tracking.spool import Description

RECORDING = "attndistill.recording"  # the tag by which a run is found again if its id was lost in a crash
PARAM_AT_MOST, TAG_AT_MOST, KEY_AT_MOST, DIGEST_AT_MOST = 6000, 8000, 250, 36  # characters, MLflow's limits
PARAMS_A_BATCH, METRICS_A_BATCH = 100, 1000
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds; MLflow's own 120, seven times over, is an afternoon
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


class Store:
    """One tracking store. Creating it creates or migrates a sqlite database, one process at a time."""

    def __init__(self, uri: str) -> None:
        for key, value in _SETTINGS.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri = uri
        self.database = sqlite_file(uri)
        if self.database is None:
            self.client = MlflowClient(tracking_uri=uri)
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        # the client's constructor already creates the tables: of four at once on a missing database, three would die
        with FileLock(f"{self.database}.lock"):
            self.client = MlflowClient(tracking_uri=uri)

    def open_run(self, description: Description, *, parent_waits: bool) -> str:
        """The id of the recording's run: the one it already has, the launcher's, or a new one.

        Args:
            parent_waits: whether the enclosing recording has yet to be sent. Raises LookupError if so and it is needed.
        """
        found = self._recorded(description.id)
        if found is not None:
            return str(found.info.run_id)
        parent, attach = None, False
        if description.enclosing:
            parent = self._recorded(description.enclosing)
            if parent is None and parent_waits:
                raise LookupError("its enclosing run is not in MLflow yet")
        elif description.launcher_run_id:
            parent = self._run(description.launcher_run_id)
            attach = parent is not None and _launched_for(parent, description)
        if parent is not None and attach:
            run_id = str(parent.info.run_id)
            self.client.set_tag(run_id, RECORDING, description.id)
            self.client.set_tag(run_id, "attndistill.attached", "yes")
            return run_id
        return self._create(description, parent)

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

    def log_dataset(self, run_id: str, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=event["name"],
            digest=event["digest"][:DIGEST_AT_MOST],
            source_type="local",
            source=json.dumps({"uri": event["source"]}),
            profile=json.dumps(event["profile"]) if event["profile"] else None,
        )
        tags = [InputTag("mlflow.data.context", event["context"])]
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Add a file, or a directory under its own name."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), "/".join(filter(None, [folder, path.name])))
        else:
            self.client.log_artifact(run_id, str(path), folder or None)

    def end(self, run_id: str, status: str, time: int) -> None:
        """End the run. One that was attached to is left to its launcher, unless its process was killed."""
        run = self.client.get_run(run_id)
        attached = run.data.tags.get("attndistill.attached") == "yes"
        if run.info.status == "RUNNING" and (not attached or status == "KILLED"):
            self.client.set_terminated(run_id, status=status, end_time=time)

    def _create(self, description: Description, parent: Any) -> str:
        experiment = parent.info.experiment_id if parent is not None else self._experiment(description.experiment)
        tags = {
            RECORDING: description.id,
            "mlflow.user": description.user,
            "mlflow.source.name": f"attndistill {description.command}",
            "mlflow.source.type": "LOCAL",
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.info.run_id
        run = self.client.create_run(
            experiment, start_time=description.started_ms, tags=tags, run_name=description.name
        )
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                raise ValueError(f"experiment {name!r} is deleted in {self.uri}: restore it, or name another")
            return str(found.experiment_id)
        place = None if self.database is None else (self.database.parent / "mlartifacts" / name).as_uri()
        try:
            return str(self.client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(self.client.get_experiment_by_name(name).experiment_id)  # another process was quicker

    def _recorded(self, recording: str) -> Any:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments(max_results=1000)]
        runs = self.client.search_runs(experiments, f"tags.`{RECORDING}` = '{recording}'", max_results=1)
        return runs[0] if runs else None

    def _run(self, run_id: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # a number left in the environment, or one of another store


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


def _launched_for(run: Any, description: Description) -> bool:
    """Whether `mlflow run` opened this run for this very command, and had not ended it when the command began."""
    entry_point = run.data.tags.get("mlflow.project.entryPoint")
    running = run.info.status == "RUNNING" or (run.info.end_time or 0) >= description.started_ms
    return bool(entry_point == description.command and running)

"""What workers record: journals on disk, sent by the driver's process, below its run; nothing is lost meanwhile."""

import json
import os
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from shared import with_tables

from attndistill.tracking import Recorder, sync
from attndistill.tracking.companion import Companion
from attndistill.tracking.recorder import DRIVER

pytestmark = pytest.mark.drivers

WORKER = """
import sys
from pathlib import Path
from attndistill.tracking import Recorder
from attndistill.tracking.companion import Companion
with Recorder.open(root=Path(sys.argv[1]), command="distill", name="distill@row", experiment="toy", config={}, argv=["x"]) as recorder:
    recorder.metrics({"seed-0/loss": 0.5}, step=1)
assert Companion._current is None
"""  # noqa: E501


def test_a_workers_journal_is_sent_by_its_driver_below_its_run_and_kept_while_the_server_is_away(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("ATTNDISTILL_TRACKING_WAIT", "0")
    with Recorder.open(
        root=tmp_path, command="pipeline", name="pipeline", experiment="toy", config={}, argv=["y"]
    ) as own:
        worker = {**os.environ, DRIVER: own.spool.folder.name, "MLFLOW_RUN_ID": "the driver's own"}
        subprocess.run([sys.executable, "-c", WORKER, str(tmp_path)], env=worker, check=True)
        [told] = [path for path in own.spool.folder.parent.glob("[!.]*") if path != own.spool.folder]
        assert (told / "lineage/environment.json").exists()  # of the machine that computed
        assert json.loads((told / "run.json").read_text())["launcher_run_id"] is None
        Companion.take_children(own.spool)
        assert told in Companion._current.spools
        Companion.take_children(own.spool)
        assert Companion._current.spools.count(told) == 1
        companion = Companion._current
    assert companion.ends(60)
    assert told.exists()
    uri = f"sqlite:///{with_tables(tmp_path) / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert [sent.sent for sent in sync(tmp_path)] == [True, True]
    client = MlflowClient(uri)
    [experiment] = [one for one in client.search_experiments() if one.name == "toy"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs["distill@row"].data.tags["mlflow.parentRunId"] == runs["pipeline"].info.run_id
    assert runs["distill@row"].data.metrics["seed-0/loss"] == 0.5
    assert {run.info.status for run in runs.values()} == {"FINISHED"}

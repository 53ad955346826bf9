"""A project in a folder of its own, whose recordings real processes make."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from attndistill.tracking.address import sqlite_uri

VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "DVC_ROOT",
    "DVC_STAGE",
    "DVC_EXP_NAME",
    "ATTNDISTILL_ROOT",
)
OPEN = """
import os, signal, sys, time
from pathlib import Path
from attndistill.tracking import Recorder

def recording(command="distill", name="distill@attndistill", **more):
    config = {"distill": {"epochs": 3, "row": "attndistill"}, "data": {"classes": [0, 1]}}
    common = {"experiment": "digits", "config": config, "argv": [command, "--row", "attndistill"]}
    return Recorder.open(root=Path.cwd(), command=command, name=name, **{**common, **more})
"""


class Project:
    """A project in a folder of its own, whose recordings are made by real processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        self.environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
        self.environment["ATTNDISTILL_TRACKING_WAIT"] = "90"  # seconds; a busy machine is no failure

    @property
    def store(self) -> str:
        return sqlite_uri(self.root / "mlflow.db")

    @property
    def spools(self) -> list[Path]:
        return sorted((self.root / ".work" / "tracking").glob("[!.]*"))

    def start(self, body: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", OPEN + textwrap.dedent(body)],
            cwd=self.root,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def record(self, body: str, **environment: str) -> str:
        """Run `body` after OPEN; gives its stderr. It must end well."""
        process = self.start(body, **environment)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        return stderr

    def sync(self, **environment: str) -> tuple[int, str]:
        finished = subprocess.run(
            [sys.executable, "-m", "attndistill", "tracking", "sync"],
            cwd=self.root,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return finished.returncode, finished.stdout + finished.stderr

"""Recording of runs: a journal on disk is the truth, MLflow is the index built from it.

`Recorder` is what a stage uses; it never imports mlflow and never talks to a server. A separate process (`delivery`)
carries the journal to MLflow while the stage runs; `sync` carries later what could not be carried then.
"""

import os
from pathlib import Path

from attndistill.tracking.address import tracking_uri
from attndistill.tracking.recorder import Recorder
from attndistill.tracking.spool import Delivered, spools_folder


def sync(root: Path) -> list[Delivered]:
    """Send every recording that is still waiting under `root`; sending twice adds nothing twice. Imports mlflow."""
    from attndistill.tracking.delivery import deliver_all

    return deliver_all(spools_folder(root), redirect=tracking_uri() if os.environ.get("MLFLOW_TRACKING_URI") else None)


def print_sync(root: Path) -> int:
    """The same for people, with a line a run; 1 where something could not be sent."""
    outcomes = sync(root)
    for outcome in outcomes:
        print(outcome)
    if not outcomes:
        print("nothing to send")
    return int(any(outcome.sent is False for outcome in outcomes))


__all__ = ["Delivered", "Recorder", "print_sync", "sync"]

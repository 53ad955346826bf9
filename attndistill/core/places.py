"""Where the state of a project lies (.work, mlflow.db): one rule, for stages and for tracking."""

import os
from pathlib import Path


def state_folder(folder: Path) -> Path:
    """The experiment's own folder, also where it runs in one of DVC's temporary copies."""
    return Path(os.environ.get("DVC_ROOT") or folder)


def project_folder(folder: Path) -> Path:
    """The folder that experiments share: with the tracking store, and params.yaml for those under experiments/.

    $ATTNDISTILL_ROOT goes before all.
    """
    folder = state_folder(folder).absolute()
    shared = folder.parent.parent
    inside = folder.parent.name == "experiments" and (shared / "params.yaml").is_file()
    return Path(os.environ.get("ATTNDISTILL_ROOT") or (shared if inside else folder)).resolve()

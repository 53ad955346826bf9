"""Resume checkpoints: the whole state of a run, written beside and renamed, owned by one process at a time.

The views, masks and order need no state (they are functions of the step), so the whole state is: weights, optimizer,
step, and the curves so far. A checkpoint names the run it belongs to by the digest of everything that decides the
result; another run's is refused.
"""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from attndistill.core.artifacts import replacing
from attndistill.core.ownership import owned

FORMAT = "attndistill-checkpoint/1"


class Checkpoint:
    """The resume checkpoint of one run.

    Args:
        directory: where it lives; made when needed.
        digest: names the run (configuration, seed and inputs).
    """

    def __init__(self, directory: Path, digest: str) -> None:
        self.directory, self.digest = directory, digest

    @property
    def path(self) -> Path:
        """The checkpoint file."""
        return self.directory / "checkpoint.pt"

    def owned(self) -> AbstractContextManager[None]:
        """Hold the run's lock (`core.ownership.owned`)."""
        return owned(self.directory, "training this run")

    def steps_done(self) -> int:
        """Steps of the run that need not be done again."""
        state = self.load()
        return 0 if state is None else int(state["step"])

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` (tensors, numbers, strings, lists, dicts) whole, replacing the last one."""
        with replacing(self.path) as beside:
            torch.save({"format": FORMAT, "digest": self.digest, "state": state}, beside)

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None at a fresh start.

        Raises:
            ValueError: the file is broken, of another format, or belongs to another run (both digests are named).
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            found, state = saved["digest"], saved["state"]
        except Exception as error:  # torch raises many kinds for a broken file
            raise ValueError(f"{self.path} is not a readable checkpoint ({type(error).__name__}); remove it") from None
        if saved["format"] != FORMAT or found != self.digest:
            raise ValueError(
                f"{self.path} belongs to another run: its digest is {found[:12]}, this run's is {self.digest[:12]}; "
                "remove it or restore the configuration it was made with"
            )
        return state  # type: ignore[no-any-return]

    def remove(self) -> None:
        """Delete the run's directory, once its result is safe elsewhere."""
        shutil.rmtree(self.directory, ignore_errors=True)

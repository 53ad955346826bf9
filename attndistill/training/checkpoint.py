"""Resume checkpoints: the whole state of a run, written beside and renamed, owned by one process at a time.

The views, masks and order need no state (they are functions of the step), so the whole state is: weights, optimizer,
step, and the curves so far. A checkpoint names the run it belongs to by the digest of everything that decides the
result; another run's is refused. torch looks at no checksum of its files: a digest of the state lies in the checkpoint,
so that a damaged one is refused too.
"""

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from attndistill.core.artifacts import replacing
from attndistill.core.ownership import owned

FORMAT = "attndistill-checkpoint/2"


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

    def save(self, state: Mapping[str, Any]) -> None:
        """Write `state` (tensors, numbers, strings, lists, dicts) whole, replacing the last one."""
        with replacing(self.path) as beside:
            saved = {"format": FORMAT, "digest": self.digest, "sha256": state_digest(state), "state": state}
            torch.save(saved, beside)

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None at a fresh start.

        Raises:
            ValueError: the file is damaged, of another format, or belongs to another run (both digests are named).
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            kind, found, sha256, state = (saved[key] for key in ("format", "digest", "sha256", "state"))
        except Exception as error:  # torch raises many kinds for a broken file
            raise self.refused(f"is not a readable checkpoint ({type(error).__name__})") from None
        if kind != FORMAT or found != self.digest:
            raise ValueError(
                f"{self.path} belongs to another run: its digest is {str(found)[:12]}, this run's is "
                f"{self.digest[:12]}; remove it or restore the configuration it was made with"
            )
        if sha256 != state_digest(state):
            raise self.refused("is damaged: what it holds is not what was saved")
        return state  # type: ignore[no-any-return]

    def refused(self, problem: str) -> ValueError:
        """What to say of a checkpoint that cannot be resumed from."""
        return ValueError(f"{self.path} {problem}; remove it, and the run starts anew")

    def remove(self) -> None:
        """Delete the run's directory, once its result is safe elsewhere."""
        shutil.rmtree(self.directory, ignore_errors=True)


def state_digest(state: Any) -> str:
    """SHA-256 of tensors, numbers, strings, lists, tuples and dicts: names, types, shapes and every byte."""
    digest = hashlib.sha256()

    def enter(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}:".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            digest.update(f"dict {len(value)}:".encode())
            for item in value.items():
                enter(item)
        elif isinstance(value, list | tuple):
            digest.update(f"{type(value).__name__} {len(value)}:".encode())
            for item in value:
                enter(item)
        else:
            digest.update(f"{type(value).__name__} {value!r}:".encode())

    enter(state)
    return digest.hexdigest()

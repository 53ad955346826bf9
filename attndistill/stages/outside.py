"""What a run takes from outside and no stage makes: images, class lists, label lists, teacher checkpoints."""

from dataclasses import dataclass
from pathlib import Path

from attndistill.core.artifacts import file_digest

_DIGESTED = 2**32  # bytes; a larger checkpoint's digest is left to the run


@dataclass(frozen=True)
class Outside:
    """One file or folder.

    Attributes:
        path: as the configuration has it; relative to the experiment's folder.
        watched: whether DVC reads every byte of it to see whether it changed. It does not for trees of images.
        sha256: that it must have, if that is known.
    """

    path: str
    watched: bool = True
    sha256: str | None = None

    def problem(self, folder: Path) -> str | None:
        """What is wrong with it, as a sentence; None where nothing is. `folder` is the experiment's."""
        place = folder / self.path
        if not place.exists():
            return f"{self.path}, which comes from outside"
        if self.sha256 is None:
            return None
        file = place / "model.safetensors" if place.is_dir() else place
        if not file.exists():
            return f"{file}, which comes from outside"
        if file.stat().st_size > _DIGESTED:
            return None
        found, wanted = file_digest(file), self.sha256.lower()
        return None if found == wanted else f"{self.path}: its SHA-256 is {found}, not {wanted}"

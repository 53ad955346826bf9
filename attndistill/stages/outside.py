"""What a run takes from outside and no stage makes: images, class lists, label lists, teacher checkpoints.

Paths are resolved as those who read them do: a list of labels from the project's root, all others from the working
directory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndistill.config import Config
from attndistill.core.artifacts import file_digest
from attndistill.stages.layout import Layout

_DIGESTED = 2**32  # bytes; a larger checkpoint's digest is left to the run


@dataclass(frozen=True)
class Outside:
    """One file or folder.

    Attributes:
        path: as the configuration has it.
        place: where it is looked for.
        sha256: that it must have, if that is known.
    """

    path: str
    place: Path
    sha256: str | None = None

    def problem(self) -> str | None:
        """What is wrong with it, in words; None where nothing is."""
        if not self.place.exists():
            return f"{self.path}, which comes from outside"
        if self.sha256 is None:
            return None
        file = self.place / "model.safetensors" if self.place.is_dir() else self.place
        if not file.exists():
            return f"{file}, which comes from outside"
        if file.stat().st_size > _DIGESTED:
            return None
        found = file_digest(file)
        return (
            None if found == self.sha256.lower() else f"{self.path}: its SHA-256 is {found}, not {self.sha256.lower()}"
        )


def from_outside(stage: str, item: str, config: Config, layout: Layout) -> list[Outside]:
    """Everything a stage reads that no stage makes."""
    read: list[Outside] = []
    if stage == "prepare":
        read = _data(config)
    elif stage == "probe" and config.probe.labels.list_file is not None:
        read = [Outside(config.probe.labels.list_file, layout.root / config.probe.labels.list_file)]
    elif stage == "pretrain" and item == "teacher":
        read = _checkpoint(config)
    return [one for one in read if not one.place.resolve().is_relative_to(layout.outputs)]  # what `fetch` makes


def _data(config: Config) -> list[Outside]:
    """Images, unless torchvision may fetch them, and the class list."""
    options = config.data.set.options()
    names = ("class_list",) if options.get("download") else ("root", "class_list")
    return [Outside(str(options[name]), Path(options[name])) for name in names if options.get(name)]


def _checkpoint(config: Config) -> list[Outside]:
    source: Any = config.teacher.source
    path = getattr(source, "path", None)
    return [] if path is None else [Outside(path, Path(path), source.sha256)]

"""An experiment: a folder with an overlay of params.yaml (if any) and a rows file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attndistill.config import Config, nested, read_yaml, resolve
from attndistill.stages.layout import MODELS

BASE = "params.yaml"
SHARED = ("data", "teacher", "teacher_seed", "pretrain")  # made once for all rows, by stages that no row reaches


class Row(BaseModel):
    """One line of an ablation: what it changes in the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    label: str = Field(min_length=1)
    set: dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """A folder's rows and configuration, not yet overlaid by a row or the command line."""

    root: Path
    name: str
    rows: Mapping[str, Row]
    layers: Sequence[Mapping[str, Any]]

    def config(self, item: str, overrides: Mapping[str, Any]) -> Config:
        """The configuration of one item: base, experiment, the item's row, the command line."""
        row = nested(self.rows[item].set) if item in self.rows else {}
        return resolve([*self.layers, row, nested(overrides)])


def open_experiment(root: Path, folder: str) -> Experiment:
    """Read an experiment. Raises ValueError for what is missing or wrong, one line."""
    if not (root / BASE).exists():
        raise ValueError(f"{root} has no {BASE}: run this in the repository, or set ATTNDISTILL_ROOT to it")
    directory = root / folder
    if not directory.is_dir():
        raise ValueError(f"experiment {folder!r}: no such folder under {root}")
    overlay_file = directory / BASE
    layers = [read_yaml(root / BASE), *([read_yaml(overlay_file)] if overlay_file.exists() else [])]
    return Experiment(root, directory.name, _read_rows(directory / "rows.yaml"), layers)


def _read_rows(path: Path) -> dict[str, Row]:
    found = read_yaml(path).get("rows")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} must hold `rows:`, a mapping from a row's name to its label and set")
    reserved = sorted(set(MODELS) & set(found))
    if reserved:
        raise ValueError(f"{path}: row name {reserved[0]!r} is taken by a pre-trained model")
    rows = {}
    for name, value in found.items():
        try:
            row = rows[str(name)] = Row.model_validate(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(["rows", str(name), *map(str, problem["loc"])])
            raise ValueError(f"{path}: {place}: {problem['msg']} (given {problem['input']!r})") from None
        for key in row.set:
            if key.partition(".")[0] in SHARED:
                raise ValueError(f"{path}: rows.{name}.set: {key}: a row cannot change {', '.join(SHARED)}")
    return rows

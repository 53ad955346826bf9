"""The result files, typed: what the probe, attention and training stages wrote, checked before anything is printed.

A file that is absent is a figure that nobody measured (None); a file that is there but wrong is refused.
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, model_validator

from attndistill.core.artifacts import read_json

# R seeds, E epochs, T steps

TEACHER = "teacher"  # the name of its row
DIGESTS = ("class_list_sha256", "data_digest")  # what figures must share to stand in one table

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # places (T,), values (R, T); NaN where a seed has none


class Measurement(BaseModel):
    """One figure over seeds, with the protocol it was measured by. Mean and sd follow from the values."""

    model_config = ConfigDict(frozen=True)
    protocol: str
    values: tuple[FiniteFloat, ...]
    seeds: tuple[int, ...]

    @model_validator(mode="after")
    def _fits(self) -> "Measurement":
        if not self.values or len(self.values) != len(self.seeds) or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(
                f"{len(self.values)} values for seeds {list(self.seeds)}, one for each distinct seed allowed"
            )
        return self

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None below two seeds."""
        return statistics.stdev(self.values) if self.n > 1 else None


class Probe(BaseModel):
    """What one probe found: accuracies in percent, and what its sweeps chose for each seed."""

    top1: Measurement | None = None
    top5: Measurement | None = None
    selected: dict[str, list[Any]] = {}


class ProbeFile(BaseModel):
    """results/<exp>/probes/<model>.json."""

    feature: str
    class_list_sha256: str
    data_digest: str
    parameters: int | None = None
    probes: dict[str, Probe]


class AttentionFile(BaseModel):
    """results/<exp>/attention/<model>.json."""

    class_list_sha256: str | None = None
    data_digest: str | None = None
    kl_to_teacher: Measurement | None = None


class TrainingFile(BaseModel):
    """results/<exp>/training/<name>.json: per seed and term, (place, value) pairs; `unit` says what places count."""

    kind: str
    unit: str = "step"
    curves: dict[str, dict[str, list[tuple[float, float]]]]


@dataclass(frozen=True)
class Row:
    """A model of the report and everything found about it.

    Attributes:
        name, label, group: as the rows file has them.
        probe, attention, training, pretraining, maps: what the stages left; None where nobody measured.
        settings: what the row changes, dotted keys.
        paper: top-1 and top-5 that the paper prints for it, percent; None where it has none that can be read.
        pictured: whether its attention and its losses are shown.
    """

    name: str
    label: str
    group: str
    probe: ProbeFile | None
    attention: AttentionFile | None
    training: TrainingFile | None
    pretraining: Curve | None
    maps: Path | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper: tuple[float | None, float | None] = (None, None)
    pictured: bool = True


def read_rows(
    results: Path, outputs: Path, rows: Sequence[Mapping[str, Any]], *, data: Mapping[str, str] | None = None
) -> list[Row]:
    """The models in the order given, each {"name", "label"} and optionally "group", "settings", "paper", "pictured".

    Raises:
        ValueError: a row without name or label, a name given twice, a broken file, or models that were measured on
            different data or classes, or on others than `data` names.
    """
    for key in ("name", "label"):
        given = [row.get(key, "") for row in rows]
        if not given or not all(given) or len(set(given)) != len(given):
            raise ValueError(f"report rows with {key}s {given} given, one or more rows with distinct {key}s allowed")
    read = [_read_row(results, outputs, row) for row in rows]
    for what in DIGESTS:
        _same(read, what, (data or {}).get(what))
    return read


def data_of(rows: Sequence[Row]) -> dict[str, str]:
    """What all rows were measured on: class_list_sha256 and data_digest; empty where nobody measured."""
    probe = next((row.probe for row in rows if row.probe), None)
    return {what: getattr(probe, what) if probe else "" for what in DIGESTS}


def _read_row(results: Path, outputs: Path, row: Mapping[str, Any]) -> Row:
    name = row["name"]
    maps = outputs / "attention" / name / "maps.npz"
    return Row(
        name=name,
        label=row["label"],
        group=row.get("group", ""),
        settings=row.get("settings", {}),
        paper=row.get("paper", (None, None)),
        pictured=row.get("pictured", True),
        probe=_read(ProbeFile, results / "probes" / f"{name}.json"),
        attention=_read(AttentionFile, results / "attention" / f"{name}.json"),
        training=_read(TrainingFile, results / "training" / f"{name}.json"),
        pretraining=_read_pretraining(results / "pretrain_probe" / f"{name}.csv"),
        maps=maps if maps.exists() else None,
    )


def _same(rows: Sequence[Row], what: str, prepared: str | None) -> None:
    """Figures on other data or other classes do not belong in one table."""
    files = [(row.name, file) for row in rows for file in (row.probe, row.attention) if file is not None]
    known = [("the experiment's data", prepared), *((name, getattr(file, what)) for name, file in files)]
    told = [(name, value) for name, value in known if value is not None]
    for name, value in told[1:]:
        first, expected = told[0]
        if value != expected:
            raise ValueError(f"{what} differs: {expected} for {first}, {value} for {name}; one table allows one")


_File = TypeVar("_File", bound=BaseModel)


def _read(kind: type[_File], path: Path) -> _File | None:
    if not path.exists():
        return None
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where or 'file'}: {first['msg']}") from None


def _read_pretraining(path: Path) -> Curve | None:
    """seed,epoch,top1 lines as (epochs, accuracies per seed)."""
    if not path.exists():
        return None
    measured: dict[int, dict[float, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                measured.setdefault(int(line["seed"]), {})[float(line["epoch"])] = float(line["top1"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{path}:{number}: {line} given, numbers for seed, epoch and top1 allowed") from None
    return aligned(measured)


def aligned(measured: Mapping[int, Mapping[float, float]]) -> Curve | None:
    """Seeds' curves on one axis: the union of their places, NaN where a seed has no value; None without any."""
    places = sorted({place for curve in measured.values() for place in curve})
    if not places:
        return None
    values = [[measured[seed].get(place, np.nan) for place in places] for seed in sorted(measured)]
    return np.array(places), np.array(values)

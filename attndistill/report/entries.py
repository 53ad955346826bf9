"""The models of a report: what the rows file says of each, and what the stages left about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from attndistill.config.rows import Model, Row, RowsFile
from attndistill.core.words import shown
from attndistill.results import ACCURACY, AttentionFile, Name, ProbeFile, ResultFile, TrainingFile

# R seeds, T places

TEACHER, SCRATCH = "teacher", "scratch"  # the pre-trained models' names
DIGESTS = ("class_list_sha256", "data_digest")  # what figures must share to stand in one table

Place = TypeVar("Place", int, float)
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # places (T,), values (R, T); NaN where a seed has none


@dataclass(frozen=True)
class Entry:
    """A model of the report; what nobody measured is None.

    Attributes:
        name, label, group: as the rows file has them; label and group can be shown.
        paper: top-1 and top-5 that the paper prints for it, percent; None where it has none that can be read.
        published: figures by key ("knn_top1", "finetune_top1@cars"), percent: those that were read.
        pictured: whether its attention and its losses are shown.
        settings: what the row changes, dotted keys.
        maps: the file with its attention maps.
    """

    name: str
    label: str
    group: str = ""
    paper: tuple[float | None, float | None] = (None, None)
    published: Mapping[str, float] = field(default_factory=dict)
    pictured: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    probe: ProbeFile | None = None
    attention: AttentionFile | None = None
    training: TrainingFile | None = None
    maps: Path | None = None

    @property
    def accuracy(self) -> Curve | None:
        """Top-1 over the epochs of training, percent to four digits."""
        curves = self.training.curves if self.training else {}
        found = {int(seed): of[ACCURACY] for seed, of in curves.items() if ACCURACY in of}
        return aligned({seed: {epoch: round(top1, 4) for epoch, top1 in points} for seed, points in found.items()})

    @property
    def feature(self) -> str:
        """What was judged, as it can be shown."""
        return shown(self.probe.feature) if self.probe else ""

    @property
    def is_distilled(self) -> bool:
        return self.name not in (TEACHER, SCRATCH)


def read_entries(
    results: Path, outputs: Path, rows: RowsFile, pretrained: Mapping[str, str], data: Mapping[str, str] | None = None
) -> list[Entry]:
    """The pre-trained models, then the rows, with everything found about them.

    Args:
        results: holds probes/, attention/, and training/.
        outputs: holds attention/<model>/maps.npz.
        rows: of the experiment.
        pretrained: name -> label of the pre-trained models, where `rows` gives them none.
        data: class_list_sha256 and data_digest of the experiment's data, where figures of others are to be refused.

    Raises:
        ValueError: a name that is no file's name, a label given twice, a broken file, or models that were measured on
            different data or classes, or on others than `data` names.
    """
    told: dict[str, Model | Row] = {name: rows.models.get(name, Model()) for name in pretrained} | dict(rows.rows)
    labels = {name: shown(said.label or pretrained[name]) for name, said in told.items()}
    if len(set(labels.values())) < len(labels):
        raise ValueError(f"labels {list(labels.values())} given, distinct labels allowed")
    entries = []
    for name, said in told.items():
        found = _found(results, outputs, name)
        if isinstance(said, Row):
            pictured = rows.pictures is None or name in rows.pictures
            found |= {"group": shown(said.group), "settings": said.set, "pictured": pictured}
        found["published"] = said.published
        if said.paper:
            found["paper"] = (said.paper.top1, said.paper.top5)
        entries.append(Entry(name, labels[name], **found))
    for what in DIGESTS:
        _same(entries, what, (data or {}).get(what))
    return entries


def on_data_set(entries: Sequence[Entry], results: Path, name: str, data: Mapping[str, str]) -> list[Entry]:
    """The same models as they were judged on a further data set, of these digests if any. Raises ValueError."""
    files = [ProbeFile.read_if_any(results / "probes" / f"{entry.name}@{name}.json") for entry in entries]
    judged = [
        replace(one, probe=file, paper=(None, None), attention=None, training=None, maps=None)
        for one, file in zip(entries, files, strict=True)
    ]
    for what in DIGESTS:
        _same(judged, what, data.get(what))
    return judged


def data_of(entries: Sequence[Entry]) -> dict[str, str]:
    """What all were measured on: class_list_sha256 and data_digest; empty where nobody measured."""
    probe = next((entry.probe for entry in entries if entry.probe), None)
    return {what: getattr(probe, what) if probe else "" for what in DIGESTS}


_KINDS: dict[str, tuple[str, str, type[ResultFile]]] = {
    "probe": ("probes", "model", ProbeFile),
    "attention": ("attention", "model", AttentionFile),
    "training": ("training", "name", TrainingFile),
}


def _found(results: Path, outputs: Path, name: str) -> dict[str, Any]:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ValueError(
            f"row {shown(name)!r} given; allowed: names that can be a file's, without / and controls"
        ) from None
    found: dict[str, Any] = {}
    for kind, (folder, what, file) in _KINDS.items():
        path = results / folder / f"{name}.json"
        found[kind] = file.read_if_any(path)
        if found[kind] and getattr(found[kind], what) != name:
            raise ValueError(f"{path}: {what}: {getattr(found[kind], what)!r} given; allowed: {name!r}")
    maps = outputs / "attention" / name / "maps.npz"
    return found | {"maps": maps if maps.exists() else None}


def _same(entries: Sequence[Entry], what: str, prepared: str | None) -> None:
    """Figures on other data or other classes do not belong in one table."""
    files = [(entry.name, file) for entry in entries for file in (entry.probe, entry.attention) if file is not None]
    told = [("the experiment's data", prepared)] if prepared else []
    told += [(name, getattr(file, what)) for name, file in files]
    for name, value in told[1:]:
        first, expected = told[0]
        if value != expected:
            raise ValueError(f"{what} differs: {expected} for {first}, {value} for {name}; one table allows one")


def aligned(measured: Mapping[int, Mapping[Place, float]]) -> Curve | None:
    """Seeds' curves on one axis: the union of their places, NaN where a seed has no value; None without any."""
    places = sorted({place for curve in measured.values() for place in curve})
    if not places:
        return None
    values = [[measured[seed].get(place, np.nan) for place in places] for seed in sorted(measured)]
    return np.array(places, dtype=np.float64), np.array(values)

"""What the page shows to those who look: attention over photos, nearest photos, confusions, mistakes, and the size."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndistill.core.artifacts import file_digest
from attndistill.core.words import shown
from attndistill.exhibits import FILE, PICTURES, Asked, Exhibits, Photo, Pictures
from attndistill.figures.attention import jpeg_bytes, overlay, png_bytes
from attndistill.report.columns import Column, place_of
from attndistill.report.entries import TEACHER, Entry
from attndistill.report.pictures import MOST_TOGETHER, Looks
from attndistill.report.sentence import percent, share
from attndistill.report.sheet import Cell, Heading, Sheet

_CLASSES = 10  # photos with maps over them
_SMALL = 48  # pixels up to which a picture is kept as it is


@dataclass(frozen=True)
class Exhibited:
    """The exhibits of one model with their pictures; `account` is the SHA-256 of the file.

    Raises:
        ValueError: a picture that is named and is not there.
    """

    label: str
    file: Exhibits
    account: str
    pictures: NDArray[np.uint8]

    @classmethod
    def read(cls, folder: Path, entry: Entry) -> "Exhibited | None":
        """Of a model; None where nobody wrote any. Raises ValueError: broken files, or another model's."""
        file = Exhibits.read_if_any(folder / FILE)
        if file is None:
            return None
        if file.model != entry.name:
            raise ValueError(f"{folder / FILE}: model: {shown(file.model)!r} given; allowed: {entry.name!r}")
        images = Pictures.read(folder / PICTURES).images if file.photos else np.empty((0, 1, 1, 3), np.uint8)
        most = max((photo.picture for photo in file.photos), default=-1)
        if most >= len(images):
            raise ValueError(f"{folder / FILE}: picture {most} given; {PICTURES} has {len(images)}")
        return cls(entry.label, file, file_digest(folder / FILE), images)

    def tile(self, photo: Photo) -> dict[str, str]:
        """What the page needs of a picture."""
        picture = self.pictures[photo.picture]
        return {"source": _source(picture), "name": shown(photo.name), "kind": shown(photo.kind or "")}


def read_exhibits(outputs: Path, entries: Sequence[Entry]) -> dict[str, Exhibited]:
    """Of every model that has any, by name. Raises ValueError as `Exhibited.read`."""
    found = {entry.name: Exhibited.read(outputs / "exhibits" / entry.name, entry) for entry in entries}
    return {name: one for name, one in found.items() if one is not None}


def best_student(entries: Sequence[Entry], columns: Sequence[Column]) -> tuple[Entry, Column | None] | None:
    """The distilled model that is best by the first column that measures one, or the last one; None without any."""
    distilled = [place for place, entry in enumerate(entries) if entry.is_distilled]
    for column in columns:
        if any(column.cells[place] for place in distilled):
            others = [place for place in range(len(entries)) if place not in distilled]
            best = column.best(*others)
            measured = [place for place in distilled if column.cells[place]]
            return entries[measured[0] if best is None else best], column
    return (entries[distilled[-1]], None) if distilled else None


def size_sentence(entries: Sequence[Entry], columns: Sequence[Column], exhibits: dict[str, Exhibited]) -> list[str]:
    """'AttnDistill has 96 % of the teacher's k-NN top-1 at 32 % of its parameters and 9 % of its FLOPs.' or nothing."""
    entry, column = best_student(entries, columns) or (None, None)
    place = place_of(entries)
    if entry is None or column is None or place is None:
        return []
    teacher, ours, theirs = entries[place], column.means[entries.index(entry)], column.means[place]
    if entry.probe is None or teacher.probe is None:
        return []
    parameters, flops, accuracy = (entry.probe.parameters, teacher.probe.parameters), None, None
    if entry.name in exhibits and TEACHER in exhibits:
        flops = (exhibits[entry.name].file.flops, exhibits[TEACHER].file.flops)
    if column.is_accuracy and ours and theirs:
        accuracy = (column.title, (ours, theirs))
    return [f"{share(parameters, flops, accuracy, entry.label)}."]


def sizes_sheet(entries: Sequence[Entry], exhibits: dict[str, Exhibited]) -> Sheet | None:
    """What a model costs to keep and to run; None where nobody counted."""
    teacher = exhibits.get(TEACHER)
    counted = [entry for entry in entries if entry.name in exhibits]
    if not counted:
        return None
    fields = ("parameters", "flops", "weight_bytes")
    headings = [Heading("Method", left=True, fields=("model",))]
    headings.append(Heading("Parameters", fields=("parameters",)))
    headings.append(Heading("FLOPs an image", fields=("flops",)))
    headings.append(Heading("Weights", fields=("weight_bytes",)))
    headings += [Heading(name, "Of the teacher's") for name in ("parameters", "FLOPs")] if teacher else []
    lines = []
    for entry in counted:
        file = exhibits[entry.name].file
        values = [getattr(file, field) for field in fields]
        texts = (f"{file.parameters:,}", _scaled(file.flops), f"{_scaled(file.weight_bytes)}B")
        line = [Cell(entry.label, values=(entry.name,), at=f"size-{exhibits[entry.name].account}")]
        line += [Cell(text, values=(value,)) for text, value in zip(texts, values, strict=True)]
        if teacher:
            shares = ((file.parameters, teacher.file.parameters), (file.flops, teacher.file.flops))
            line += [Cell(percent(*pair)) for pair in shares]
        lines.append(line)
    notes = [
        "FLOPs of one image through the whole backbone, two for a multiplication and an addition; weights in fp32, as "
        "they are exported. Images a second depend on the machine, and this page does not: `attndistill report` "
        "measures them and leaves them in speed.js beside this page's folder, from where they are shown here."
    ]
    return Sheet(headings, [("", lines)], notes)


def _scaled(amount: float) -> str:
    """'5.3 M'."""
    for unit in ("", "k", "M", "G", "T"):
        if amount < 1000 or unit == "T":
            return f"{amount:.3g} {unit}"
        amount /= 1000
    raise AssertionError


def overlays(looks: Looks | None) -> dict[str, Any] | None:
    """One photo a class with every model's map over it; the featured photos where there is one class."""
    if looks is None:
        return None
    kinds = looks.teacher.classes.tolist()
    order = np.argsort(looks.teacher.indices, kind="stable").tolist()
    first = {kinds[place]: place for place in reversed(order)}
    chosen = [first[kind] for kind in sorted(first, key=lambda kind: int(looks.teacher.indices[first[kind]]))]
    if len(chosen) == 1:
        chosen = np.flatnonzero(looks.teacher.featured).tolist() or chosen
    students = dict(list(looks.students.items())[: MOST_TOGETHER - 1])
    lines = []
    for place in sorted(chosen[:_CLASSES], key=lambda place: str(kinds[place])):
        image = looks.teacher.images[place]
        maps = [looks.teacher.aggregated[place], *(found.aggregated[place] for found in students.values())]
        lines.append(
            {
                "name": shown(looks.teacher.names[place]),
                "kind": shown(kinds[place]),
                "photo": _source(image),
                "maps": [_source(overlay(image, one)) for one in maps],
                "kl": [None, *(f"KL {float(found.kl[place]):.3f}" for found in students.values())],
            }
        )
    return {"models": [looks.teacher_label, *students], "lines": lines}


def neighbours(teacher: Exhibited | None, student: Exhibited | None) -> dict[str, Any] | None:
    """The same photos asked of both, nearest first; of whichever there is."""
    held = [one for one in (teacher, student) if one is not None and one.file.neighbours]
    if not held:
        return None
    lines = []
    for asked in held[0].file.neighbours:
        answers = []
        for one in held:
            same = next((other for other in one.file.neighbours if other.name == asked.name), None)
            answers.append(_answer(one, same))
        lines.append({**held[0].tile(asked), "answers": answers})
    return {"models": [one.label for one in held], "lines": lines}


def _answer(one: Exhibited, asked: Asked | None) -> list[dict[str, str]]:
    if asked is None:
        return []
    return [
        {
            **one.tile(near),
            "cosine": f"{near.cosine:.2f}",
            "wrong": "yes" if asked.kind is not None and near.kind != asked.kind else "",
        }
        for near in asked.nearest
    ]


def confusion(student: Exhibited | None) -> dict[str, Any] | None:
    """The matrix, each count with its share of the class; the most frequent pairs; the worst mistakes."""
    if student is None or student.file.confusion is None:
        return None
    told = student.file.confusion
    lines = []
    for kind, counts in zip(told.classes, told.counts, strict=True):
        whole = max(sum(counts), 1)
        lines.append((shown(kind), [(count, round(100 * count / whole)) for count in counts]))
    return {
        "label": student.label,
        "seed": student.file.seed,
        "protocol": shown(told.protocol),
        "classes": [shown(kind) for kind in told.classes],
        "lines": lines,
        "pairs": [(shown(true), shown(taken), count) for true, taken, count in told.pairs],
        "mistakes": [
            {**student.tile(one), "taken_for": shown(one.taken_for), "share": f"{100 * one.share:.0f} %"}
            for one in student.file.mistakes
        ],
    }


def _source(picture: NDArray[np.uint8]) -> str:
    """A data: address."""
    small = max(picture.shape[:2]) <= _SMALL
    kind, data = ("png", png_bytes(picture)) if small else ("jpeg", jpeg_bytes(picture))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"

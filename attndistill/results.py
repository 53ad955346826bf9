"""The result files of an experiment, each defined once, for the stage that writes it and the report that reads it.

    results/probes/<model>.json          ProbeFile
    results/attention/<model>.json       AttentionFile
    results/training/<model>.{json,csv}  TrainingFile
    results/report/table.json            TableFile
    results/metrics.json                 MetricsFile
    outputs/attention/<model>/maps.npz   TeacherMaps, StudentMaps

Whatever does not fit is refused in one line that names the file and the field.
"""

import json
import math
import statistics
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from attndistill.core.artifacts import replacing, write_json, write_text
from attndistill.core.reading import Model, machine_fault, read_bounded, read_model, regular_file
from attndistill.core.words import shown
from attndistill.evaluations import evaluations

# K images of side S, H heads, gh x gw patches

_MOST = 2**25  # bytes of a JSON or CSV file; the largest of ours have 2**17
_MOST_ARRAYS = 2**34  # a whole test split, pictured

# Of a file or a folder: neither hidden nor elsewhere.
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f/\\.][^\x00-\x1f\x7f/\\]*$", max_length=120)]
Real = Annotated[float, Field(ge=-1e30, le=1e30)]  # what can still be squared and drawn
Whole = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[int | float, Field(ge=-1e30, le=1e30)]
SeedKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,15})$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]
Text = Annotated[str, Field(min_length=1, max_length=500)]


class Strict(BaseModel):
    """A part of a file: no other fields, no conversions, finite numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ResultFile(Strict):
    """A whole JSON file."""

    def write(self, path: Path) -> None:
        """Write atomically, keys sorted."""
        write_json(path, self.model_dump(mode="json", by_alias=True, exclude_unset=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check. Raises ValueError: one line that names the file and the field."""
        return read_typed(cls, path)

    @classmethod
    def read_if_any(cls, path: Path) -> Self | None:
        """The same; None where nobody has written it."""
        return read_typed(cls, path) if path.exists() or path.is_symlink() else None


def read_typed(kind: type[Model], path: Path) -> Model:
    """A JSON file of one type; a key that is given twice is refused."""
    found = read_model(path, kind, at_most=_MOST)
    try:
        json.loads(read_bounded(path, at_most=_MOST), object_pairs_hook=_each_once)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {shown(error)}") from None
    return found


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise ValueError(f"{shown(name)}: given {times} times in one object; allowed: once")
    return dict(pairs)


class Measurement(Strict):
    """One figure over seeds with the protocol it was measured by; n, mean and sample sd (None for one seed) follow."""

    protocol: Text
    values: tuple[Real, ...]
    seeds: tuple[Whole, ...]
    n: Whole
    mean: Real
    sd: Real | None

    @classmethod
    def of(cls, values: Sequence[float], seeds: Sequence[int], protocol: str) -> Self:
        """From the value of each seed."""
        sd = statistics.stdev(values) if len(values) > 1 else None
        mean = statistics.fmean(values) if values else math.nan
        return cls(protocol=protocol, values=tuple(values), seeds=tuple(seeds), n=len(values), mean=mean, sd=sd)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        count = len(self.values)
        if not count or count != len(self.seeds) or len(set(self.seeds)) != count:
            raise ValueError(f"{count} values for seeds {list(self.seeds)}, one for each distinct seed allowed")
        sd = statistics.stdev(self.values) if count > 1 else None
        wanted = (count, statistics.fmean(self.values), sd)
        for name, ours, theirs in zip(("n", "mean", "sd"), wanted, (self.n, self.mean, self.sd), strict=True):
            if (ours is None) != (theirs is None) or not math.isclose(
                ours or 0, theirs or 0, rel_tol=1e-9, abs_tol=1e-9
            ):
                raise ValueError(f"{name} {theirs} beside values whose {name} is {ours}")
        return self


class Measured(Strict):
    """Figures by name beside what a subclass declares."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Measurement] = Field(init=False)

    @property
    def figures(self) -> Mapping[str, Measurement]:
        """By name."""
        return self.__pydantic_extra__


class Found(Measured):
    """What one evaluation found: its figures, what its sweep chose for each seed, and the sweep itself on test."""

    selected: dict[Text, tuple[Number, ...]]
    sweep: dict[Text, Measurement]

    @classmethod
    def of(
        cls,
        figures: Mapping[str, Measurement],
        selected: Mapping[str, Sequence[float]],
        sweep: Mapping[str, Measurement],
    ) -> Self:
        """From figures by name."""
        chosen = {key: tuple(values) for key, values in selected.items()}
        return cls.model_validate({**figures, "selected": chosen, "sweep": dict(sweep)})


def _check_figures(where: str, evaluation: str, figures: Mapping[str, Measurement]) -> None:
    """Exactly the figures that the evaluation declares, percentages between 0 and 100."""
    declared = evaluations()[evaluation].figures
    if set(figures) != set(declared):
        given, allowed = ", ".join(figures) or "none", ", ".join(declared)
        raise ValueError(f"{where}{evaluation}: figures {given} given; allowed: {allowed}")
    for name, figure in figures.items():
        if declared[name].unit == "%" and not all(0 <= value <= 100 for value in figure.values):
            raise ValueError(
                f"{where}{evaluation}.{name}: values {list(figure.values)}; allowed: percentages, 0 to 100"
            )


class ProbeFile(ResultFile):
    """What the evaluations of a model found, by name; each over the same images."""

    model: Name
    parameters: Whole
    feature: Text
    class_list_sha256: Digest
    data_digest: Digest
    probes: dict[str, Found]

    @model_validator(mode="after")
    def _known(self) -> Self:
        allowed = [name for name, one in evaluations().items() if one.on != "maps"]
        for name, found in self.probes.items():
            if name not in allowed:
                raise ValueError(f"probes.{name} given; allowed: {', '.join(allowed)}")
            _check_figures("probes.", name, found.figures)
        return self


class AttentionFile(ResultFile, Measured):
    """How far a model's maps are from its teacher's; the teacher's own file has no figure."""

    model: Name
    class_list_sha256: Digest
    data_digest: Digest

    @model_validator(mode="after")
    def _known(self) -> Self:
        on_maps = {name: set(one.figures) for name, one in evaluations().items() if one.on == "maps"}
        for unknown in set(self.figures).difference(*on_maps.values()):
            raise ValueError(f"{unknown} given; allowed: {', '.join(sorted(set().union(*on_maps.values())))}")
        for name, figures in on_maps.items():
            if found := {key: value for key, value in self.figures.items() if key in figures}:
                _check_figures("", name, found)
        return self


ACCURACY = "probe_top1"  # a curve of training: a probe's top-1 on test, percent


class TrainingFile(ResultFile):
    """Curves of a training run by seed and name, (epoch, value) pairs, and the mean of their last values.

    A released teacher has no curves, but an account of how it was loaded and checked.
    """

    name: Name
    kind: Text
    unit: Text
    curves: dict[SeedKey, dict[Text, tuple[tuple[Whole, Real], ...]]]
    summary: dict[Text, Real]
    load: dict[str, Any] | None = None
    self_check: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        for seed, curves in self.curves.items():
            for name, points in curves.items():
                places = [place for place, _ in points]
                if not points or places != sorted(set(places)):
                    raise ValueError(
                        f"curves.{seed}.{name}: {len(points)} points; allowed: one or more, each epoch once"
                    )
        return self

    @classmethod
    def of(cls, name: str, kind: str, histories: Mapping[int, Mapping[str, Sequence[Sequence[float]]]]) -> Self:
        """From the history of each seed."""
        curves = {
            str(seed): {
                curve: tuple((int(epoch), value) for epoch, value in points) for curve, points in history.items()
            }
            for seed, history in histories.items()
        }
        every = list(curves.values())
        summary = {curve: sum(history[curve][-1][1] for history in every) / len(every) for curve in every[0]}
        return cls(name=name, kind=kind, unit="epoch", curves=curves, summary=summary)

    def write_csv(self, path: Path) -> None:
        """The same curves, a line for each seed, epoch and curve."""
        lines = [
            f"{seed},{epoch},{name},{value:.9g}\n"
            for seed, curves in self.curves.items()
            for name, points in curves.items()
            for epoch, value in points
        ]
        write_text(path, "".join(["seed,epoch,curve,value\n", *lines]))


class Summary(Strict):
    """A figure as the table has it."""

    mean: Real
    n: Whole
    protocol: Text
    sd: Real | None = None


class ModelSummary(Strict):
    """A line of the table: parameters, and by evaluation its figures."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Summary]] = Field(init=False)
    parameters: Whole | None = None

    @property
    def evaluations(self) -> Mapping[str, Mapping[str, Summary]]:
        """By name."""
        return self.__pydantic_extra__


class DifferenceSummary(Strict):
    """A paired difference as the table has it; what too few seeds do not tell is absent.

    Attributes:
        mean, sd, n: over the shared seeds.
        interval: 95 % confidence, two-sided, not corrected.
        p, p_holm: of the paired test, and corrected for the `tests` of its table.
        detectable: the smallest difference that n seeds of this sd show with 80 % power (two-sided 5 %).
        bound, margin, judge, weakest: of a claim.
        verdict: by p_holm.
    """

    n: Whole
    verdict: Text
    mean: Real | None = None
    sd: Real | None = None
    interval: tuple[Real, Real] | None = None
    p: Real | None = None
    p_holm: Real | None = None
    tests: Whole | None = None
    detectable: Real | None = None
    bound: Real | None = None
    margin: Real | None = None
    judge: str | None = None
    weakest: str | None = None


class TableFile(ResultFile):
    """The report's table: models, differences ("left - right", by evaluation and figure), claims by figure's title.

    `datasets` has the models as they were judged on further data sets.
    """

    models: dict[Name, ModelSummary]
    differences: dict[Text, dict[str, dict[str, DifferenceSummary]]]
    claims: dict[Text, dict[str, DifferenceSummary]] | None = None
    datasets: dict[Name, dict[Name, ModelSummary]] | None = None


class MetricsFile(ResultFile):
    """The few figures that `dvc exp show` compares: by model, flat."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Number]] = Field(init=False)


def flat_metrics(table: TableFile) -> MetricsFile:
    """The first figure of each evaluation, its sd and n, to two digits more than people read."""
    flat: dict[str, dict[str, int | float]] = {}
    for model, summary in table.models.items():
        flat[model] = {}
        for one in evaluations().values():
            figure, facts = next(iter(one.figures.items()))
            if found := summary.evaluations.get(one.name, {}).get(figure):
                key, digits = one.key(figure), facts.digits + 2
                spread = {} if found.sd is None else {f"{key}_sd": round(found.sd, digits)}
                flat[model] |= {key: round(found.mean, digits), **spread, f"{key}_n": found.n}
    return MetricsFile.model_validate(flat)


@dataclass(frozen=True)
class Arrays:
    """An archive of plain arrays (npz): what each must be is declared once, by type and axes.

    Attributes:
        ARRAYS: name -> (type, axes); a letter is one length wherever it stands, "3" is 3.
    """

    ARRAYS: ClassVar[Mapping[str, tuple[str, str]]]

    def write(self, path: Path) -> None:
        """Write atomically."""
        with replacing(path) as beside:
            np.savez(beside, **{name: getattr(self, name) for name in self.ARRAYS})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check: headers before any array is held in memory, where it takes no more than the file does.

        Raises:
            ValueError: one line that names the file and the array.
        """
        try:
            with regular_file(path, at_most=_MOST_ARRAYS) as file, ZipFile(file) as archive:
                cls._check_headers(archive, path.stat().st_size)
                found = {name: _array(archive, name) for name in cls.ARRAYS}
        except FileNotFoundError:
            raise ValueError(f"{shown(path)} does not exist: run the stage that makes it first") from None
        except (BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
            if machine_fault(error):
                raise
            raise ValueError(f"{shown(path)}: file: not an archive of plain arrays: {shown(error)}") from None
        except ValueError as error:
            said, where = str(error), shown(path)
            raise ValueError(said if said.startswith(where) else f"{where}: {shown(said, 300)}") from None
        return cls(**found)

    @classmethod
    def _check_headers(cls, archive: ZipFile, size: int) -> None:
        """Every array is there once, not compressed, of its type, as long as it says, its axes as the others'."""
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        for name in [*cls.ARRAYS, *members]:
            if name not in members or name not in cls.ARRAYS or len(members) < len(archive.infolist()):
                raise ValueError(
                    f"{name}: missing, unknown or given twice; allowed: {', '.join(cls.ARRAYS)}, each once"
                )
        for name, member in members.items():
            whole = member.compress_size == member.file_size and sum(one.file_size for one in members.values()) <= size
            if member.compress_type != ZIP_STORED or not whole:
                raise ValueError(f"{name}: compressed or cut, not an archive of plain arrays; allowed: stored as it is")
        lengths: dict[str, int] = {}
        for name, (wanted, axes) in cls.ARRAYS.items():
            member = members[name]
            with archive.open(member) as file:
                if (version := np.lib.format.read_magic(file)) != (1, 0):
                    raise ValueError(f"{name}: format {version} given; allowed: 1.0")
                shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
                length = math.prod(shape) * kind.itemsize + file.tell()
            given = kind.kind if wanted == "U" else f"{kind.kind}{kind.itemsize}"
            if given != wanted or by_columns or length != member.file_size:
                raise ValueError(
                    f"{name}: {kind} {shape} given, not an archive of plain arrays; allowed: {wanted} ({axes})"
                )
            letters = axes.split()
            for letter, length in zip(letters, shape, strict=False):
                fits = length == int(letter) if letter.isdigit() else length == lengths.setdefault(letter, length)
                if not fits or not length or len(letters) != len(shape):
                    told = ", ".join(f"{letter} = {length}" for letter, length in lengths.items())
                    raise ValueError(f"{name}: shape {shape} given; allowed: ({axes}), where {told}, none of it 0")


def _array(archive: ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the end, where the checksum is compared
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (name == "kl" or (array >= 0).all())):
        raise ValueError(f"{name}: entries that are negative or not finite given; allowed: probabilities")
    if array.dtype.kind == "U":
        try:
            texts = array.tolist()
            "".join(texts).encode()
        except ValueError:
            raise ValueError(f"{name}: no valid text given; allowed: Unicode") from None
        if name == "names" and len(set(texts)) < len(texts):
            raise ValueError("names: a name given twice; allowed: distinct names")
    return array


@dataclass(frozen=True)
class TeacherMaps(Arrays):
    """The pictured images, and the teacher's class-token attention over the patches in each.

    Attributes:
        images: as the models saw them, not normalised.
        indices: of the images in the test split.
        featured: whether the page shows the image.
        aggregated, heads: probabilities, over all heads and of each.
    """

    ARRAYS = {  # noqa: RUF012
        "images": ("u1", "K S S 3"),
        "names": ("U", "K"),
        "classes": ("U", "K"),
        "indices": ("i8", "K"),
        "featured": ("b1", "K"),
        "aggregated": ("f4", "K gh gw"),
        "heads": ("f4", "K H gh gw"),
    }
    images: NDArray[np.uint8]
    names: NDArray[np.str_]
    classes: NDArray[np.str_]
    indices: NDArray[np.int64]
    featured: NDArray[np.bool_]
    aggregated: NDArray[np.float32]
    heads: NDArray[np.float32]


@dataclass(frozen=True)
class StudentMaps(Arrays):
    """A student's attention in the images that its teacher's file holds, and KL from the teacher's there, in nats."""

    ARRAYS = {"aggregated": ("f4", "K gh gw"), "heads": ("f4", "K H gh gw"), "kl": ("f4", "K")}  # noqa: RUF012
    aggregated: NDArray[np.float32]
    heads: NDArray[np.float32]
    kl: NDArray[np.float32]

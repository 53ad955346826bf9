"""The result files of an experiment, each defined once, for the stage that writes it and the report that reads it.

    results/<experiment>/probes/<model>.json          ProbeFile
    results/<experiment>/attention/<model>.json       AttentionFile
    results/<experiment>/training/<model>.{json,csv}  TrainingFile
    results/<experiment>/pretrain_probe/<model>.csv   ProbeCurve
    results/<experiment>/report/table.json            TableFile
    results/<experiment>/metrics.json                 MetricsFile
    outputs/<experiment>/attention/<model>/maps.npz   MapsFile

Whatever does not fit is refused in one line that names the file and the field.
"""

import json
import math
import re
import reprlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from attndistill.core.artifacts import replacing, write_json, write_text
from attndistill.core.reading import open_regular, read_bounded
from attndistill.core.words import shown
from attndistill.evaluations import evaluations

# K images, H heads, gh x gw patches, S image side

_MOST = 32 * 2**20  # bytes of a JSON or CSV file; the largest of ours have a few

Name = Annotated[
    str, Field(pattern=r"^[^\x00-\x1f\x7f/\\.][^\x00-\x1f\x7f/\\]*$", max_length=120)
]  # of a file, a folder
Real = Annotated[float, Field(ge=-1e30, le=1e30)]  # what can still be squared and drawn
Whole = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[int | float, Field(ge=-1e30, le=1e30)]
SeedKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,15})$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]
Text = Annotated[str, Field(min_length=1, max_length=500)]
_Model = TypeVar("_Model", bound=BaseModel)


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


def read_typed(kind: type[_Model], path: Path) -> _Model:
    """A JSON file of one type; a key that is given twice is refused."""
    content = read_bounded(path, _MOST)
    try:
        json.loads(content.decode("utf-8"), object_pairs_hook=_each_once)
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        where = ".".join(map(str, first["loc"])) or ("file" if said == first["msg"] else kind.__name__)
        where = shown(where, 120)
        given = "" if first["type"] == "missing" else f" ({shown(reprlib.repr(first['input']), 80)} given)"
        raise ValueError(f"{path}: {where}: {shown(said, 300)}{given}") from None
    except RecursionError:
        raise ValueError(f"{path}: file: nested too deeply; allowed: what its stage writes") from None
    except ValueError as error:
        raise ValueError(f"{path}: file: no valid JSON: {shown(str(error), 200)}") from None


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice in one object")
    return found


class Measurement(Strict):
    """One figure over seeds with the protocol it was measured by; n, mean and sample sd (None for one seed) follow."""

    protocol: Text
    values: tuple[Real, ...]
    seeds: tuple[Whole, ...]
    n: int
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
        for name, one in evaluations().items():
            if one.on == "maps" and self.figures:
                _check_figures("", name, {key: value for key, value in self.figures.items() if key in one.figures})
        known = {figure for one in evaluations().values() if one.on == "maps" for figure in one.figures}
        if unknown := set(self.figures) - known:
            raise ValueError(f"{sorted(unknown)[0]} given; allowed: {', '.join(sorted(known))}")
        return self


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


@dataclass(frozen=True)
class ProbeCurve:
    """A probe's top-1 on test while the model was pre-trained: seed -> (epoch, percent) pairs."""

    points: Mapping[int, Sequence[tuple[int, float]]]

    def write(self, path: Path) -> None:
        """As CSV, a line for each seed and epoch."""
        lines = [f"{seed},{int(epoch)},{top1:.4f}\n" for seed, found in self.points.items() for epoch, top1 in found]
        write_text(path, "".join([_PROBE_CURVE, *lines]))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check. Raises ValueError: one line that names the file and the line."""
        content = read_bounded(path, _MOST)
        try:
            head, *lines = content.decode("utf-8").splitlines()
        except ValueError:  # also of an empty file
            raise ValueError(
                f"{path}: file: empty or no UTF-8 given; allowed: lines of {_PROBE_CURVE.strip()}"
            ) from None
        found: dict[int, dict[int, float]] = {}
        for number, line in enumerate([head, *lines], start=1):
            match = _PROBE_LINE.fullmatch(line)
            good = line == _PROBE_CURVE.strip() if number == 1 else match and 0 <= float(match[3]) <= 100
            if good and match and int(match[2]) not in found.setdefault(int(match[1]), {}):
                found[int(match[1])][int(match[2])] = float(match[3])
            elif not (good and number == 1):
                raise ValueError(
                    f"{path}: line {number}: {shown(line, 80)!r} given; allowed: {_PROBE_CURVE.strip()} in the first, "
                    "then a seed, an epoch that it has once, and a percentage"
                )
        return cls({seed: sorted(points.items()) for seed, points in found.items()})


_PROBE_CURVE = "seed,epoch,top1\n"
_PROBE_LINE = re.compile(r"(\d{1,9}),(\d{1,9}),(\d{1,3}(?:\.\d{1,30})?(?:e-\d{1,2})?)", re.ASCII)


class Summary(Strict):
    """A figure as the table has it."""

    mean: Real
    n: int
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

    n: int
    verdict: Text
    mean: Real | None = None
    sd: Real | None = None
    interval: tuple[Real, Real] | None = None
    p: Real | None = None
    p_holm: Real | None = None
    tests: int | None = None
    detectable: Real | None = None
    bound: Real | None = None
    margin: Real | None = None
    judge: str | None = None
    weakest: str | None = None


class TableFile(ResultFile):
    """The report's table: models, differences ("left - right", by evaluation and figure), claims by figure's title."""

    models: dict[Name, ModelSummary]
    differences: dict[Text, dict[str, dict[str, DifferenceSummary]]]
    claims: dict[Text, dict[str, DifferenceSummary]] | None = None


class MetricsFile(RootModel[dict[Name, dict[str, Number]]]):
    """The few figures that `dvc exp show` compares: by model, flat."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    def write(self, path: Path) -> None:
        """Write atomically, keys sorted."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check. Raises ValueError: one line that names the file and the field."""
        return read_typed(cls, path)


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
    return MetricsFile(flat)


@dataclass(frozen=True)
class MapsFile:
    """Class-token attention over the patches of the pictured images, of the teacher and of one student.

    Attributes:
        images: (K, S, S, 3) uint8, as the models saw them, not normalised.
        names, classes: (K,) texts; names are distinct.
        teacher_aggregated, teacher_heads: (K, gh, gw) and (K, H, gh, gw).
        kl: (K,) from the teacher's aggregated map, nats.
        featured: (K,) whether the page shows the image.
        student_aggregated, student_heads: None in the teacher's own file.
    """

    images: NDArray[np.uint8]
    names: NDArray[np.str_]
    classes: NDArray[np.str_]
    teacher_aggregated: NDArray[np.float32]
    teacher_heads: NDArray[np.float32]
    kl: NDArray[np.float32]
    featured: NDArray[np.bool_]
    student_aggregated: NDArray[np.float32] | None = None
    student_heads: NDArray[np.float32] | None = None

    def write(self, path: Path) -> None:
        """Write atomically, as an archive of plain arrays."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        with replacing(path) as beside:
            np.savez(beside, **{name: array for name, array in arrays.items() if array is not None})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check: shapes before any array is held in memory, which is never larger than the file.

        Raises:
            ValueError: one line that names the file and the array.
        """
        try:
            with open_regular(path) as file, ZipFile(file) as archive:
                shapes = _array_shapes(archive)
                _check_shapes(shapes)
                found = {name: _array(archive, name) for name in shapes}
            _check_entries(found)
        except (BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{path} is not an archive of plain arrays: {shown(str(error))}") from None
        except ValueError as error:
            said = shown(str(error), 300)
            raise ValueError(said if said.startswith(str(path)) else f"{path}: {said}") from None
        return cls(**found)


_KINDS = {"images": "u1", "names": "U", "classes": "U", "featured": "b1"}  # all others: f4
_SHARED = ("images", "names", "classes", "teacher_aggregated", "teacher_heads", "kl", "featured")
_STUDENTS = ("student_aggregated", "student_heads")


def _array_shapes(archive: ZipFile) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its header alone; one that is compressed, or not as long as it says, is refused."""
    names = [member.filename.removesuffix(".npy") for member in archive.infolist()]
    wanted = _SHARED + _STUDENTS * bool({*names} & {*_STUDENTS})
    for name in [*wanted, *names]:
        if names.count(name) != 1 or name not in wanted:
            raise ValueError(
                f"{name}: {names.count(name)} times in the archive; allowed: {', '.join(wanted)}, each once"
            )
    shapes = {}
    for name, member in zip(names, archive.infolist(), strict=True):
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{name}: format {version} given; allowed: 1.0")
            shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
            size = math.prod(shape) * kind.itemsize + file.tell()
        wanted = np.dtype(_KINDS.get(name, "f4"))
        fits = kind.kind == wanted.kind if wanted.kind == "U" else kind == wanted
        if not fits or by_columns or member.compress_type != ZIP_STORED or member.file_size != size:
            raise ValueError(
                f"{name}: {kind} of shape {shape} given, not an archive of plain arrays; allowed: {wanted.name}"
            )
        shapes[name] = shape
    return shapes


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    count = shapes["images"][0] if shapes["images"] else 0
    side = shapes["images"][1:2]
    wanted = {"images": (count, *side, *side, 3)}
    for who in ("teacher", "student"):
        if f"{who}_heads" in shapes:
            heads, grid = shapes[f"{who}_heads"][1:2], shapes[f"{who}_heads"][2:]
            grid = grid if len(grid) == 2 else (1, 1)
            wanted |= {f"{who}_heads": (count, *(heads or (1,)), *grid), f"{who}_aggregated": (count, *grid)}
    for name, shape in shapes.items():
        allowed = wanted.get(name, (count,))
        if shape != allowed or not all(shape):
            raise ValueError(f"{name}: shape {shape} given; allowed: {allowed}, none of it 0")


def _array(archive: ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # the end: the checksum has been compared
            raise ValueError(f"{name}: bytes behind the array given; allowed: none")
    return array


def _check_entries(found: Mapping[str, NDArray[Any]]) -> None:
    for name, array in found.items():
        if array.dtype.kind == "f" and not (np.isfinite(array).all() and (name == "kl" or (array >= 0).all())):
            raise ValueError(f"{name}: entries that are negative or not finite given; allowed: probabilities")
    for name in ("names", "classes"):
        try:
            texts = [str(text) for text in found[name]]
            "".join(texts).encode()
        except ValueError:
            raise ValueError(f"{name}: no valid text given; allowed: Unicode") from None
        if name == "names" and len(set(texts)) < len(texts):
            raise ValueError("names: a name given twice; allowed: distinct names")

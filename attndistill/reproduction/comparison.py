"""Then and now: whether what was made again is the same bytes, the same figures, or differs, by how much and why."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attndistill.core.artifacts import read_json
from attndistill.core.reading import read_text

SAME_BYTES, SAME_FIGURE, DIFFERS = "same bytes", "same figure", "differs"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: a path, "configuration", "environment".
        verdict: one of the three, or a remark.
        detail: by how much, and what is known of the reason.
    """

    what: str
    verdict: str
    detail: str = ""

    def plain(self) -> dict[str, str]:
        return asdict(self)


def table(rows: Sequence[Row]) -> str:
    """Aligned columns."""
    width, second = (max(len(getattr(row, name)) for row in rows) for name in ("what", "verdict"))
    return "\n".join(f"{row.what:{width}}  {row.verdict:{second}}  {row.detail}".rstrip() for row in rows)


def compared(path: str, then: str, now: str, old: Path | None, new: Path) -> Row:
    """One output.

    Args:
        path: its name.
        then, now: md5.
        old: its bytes of then; None where nobody has them.
        new: its bytes of now.
    """
    if then == now:
        return Row(path, SAME_BYTES, now)
    if now == "absent":
        return Row(path, DIFFERS, "it was not made")
    if old is None:
        return Row(path, DIFFERS, f"md5 {then} -> {now}; the bytes of then are nowhere")
    if old.is_dir() or new.is_dir():
        return Row(path, DIFFERS, _folders(old, new))
    one, other = _numbers(old), _numbers(new)
    if one is None or other is None:
        return Row(path, DIFFERS, f"{old.stat().st_size} bytes -> {new.stat().st_size} bytes")
    text = _distance(one, other)
    return Row(path, SAME_FIGURE if text is None else DIFFERS, text or f"md5 {then} -> {now}, every number the same")


def _folders(old: Path, new: Path) -> str:
    then, now = _files(old), _files(new)
    other = [name for name in sorted(then & now) if (old / name).read_bytes() != (new / name).read_bytes()]
    parts = [f"{len(other)} of {len(then & now)} files: {', '.join(other[:3])}" if other else ""]
    for word, missing in (("gone", then - now), ("new", now - then)):
        parts += [f"{word}: {', '.join(sorted(missing)[:3])}"] if missing else []
    weights = [_tensors(old / name, new / name) for name in other if name.endswith(".safetensors")]
    parts += [f"largest difference of a weight {max(weights):.3g}"] if weights else []
    return "; ".join(filter(None, parts))


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _tensors(old: Path, new: Path) -> float:
    from safetensors.numpy import load_file

    one, other = load_file(old), load_file(new)
    if {name: array.shape for name, array in one.items()} != {name: array.shape for name, array in other.items()}:
        return math.inf
    return max(float(abs(one[name] - other[name]).max()) for name in one if one[name].size)


def _numbers(file: Path) -> dict[str, Any] | None:
    """Every value of a result file by its place; None of another kind of file."""
    if file.suffix == ".json":
        return dict(_flat(read_json(file)))
    if file.suffix == ".csv":
        lines = list(csv.reader(io.StringIO(read_text(file))))
        cells = ((i, j, cell) for i, line in enumerate(lines) for j, cell in enumerate(line))
        return {f"line {i}, column {j}": _number(cell) for i, j, cell in cells}
    return None


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(entry, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from _flat(entry, f"{prefix}[{place}]")
    else:
        yield prefix, value


def _distance(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How far apart; None where every number is the same."""
    one, two = ({key: value for key, value in found.items() if _counts(value)} for found in (then, now))
    if missing := sorted(one.keys() ^ two.keys()):
        return f"figures that one of them lacks: {', '.join(missing[:3])}"
    apart = {key: abs(value - two[key]) for key, value in one.items() if value != two[key]}
    if not apart:
        return None
    key = max(apart, key=apart.__getitem__)
    return f"by {apart[key]:.3g} at most: {key} {one[key]:.6g} -> {two[key]:.6g}; {len(apart)} of {len(one)} numbers"


def _counts(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def reasons(then: Mapping[str, Any], now: Mapping[str, Any], versions: Sequence[str]) -> list[str]:
    """What is known to make sums differ: processor, device, threads, versions of libraries that compute."""
    found = [
        f"{name} {then[name]} -> {now[name]}"
        for name in ("processor", "device", "threads", "python")
        if name in then and name in now and str(then[name]) != str(now[name])
    ]
    computing = ("torch", "timm", "numpy", "scipy", "scikit-learn", "safetensors", "pillow", "matplotlib", "accelerate")
    return [*found, *(line for line in versions if line.split()[0] in computing)]

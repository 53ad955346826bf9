"""What an engine's two workers make of a table of toy rows, beside one row after another (`make bench`).

Both are the whole pipeline: teacher, targets and report are made once and in order, whatever the number of workers.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from attndistill.config import overlay, read_yaml
from attndistill.core.artifacts import read_json
from benchmarks.search import ROOT, timed
from benchmarks.timing import spread

_SEEDS = "[0]"
_UNRECORDED = ["--runtime.tracking", "false"]  # writing to MLflow takes the second core, which one process leaves idle


def measure(*, rows: int, epochs: int, repeats: int) -> dict[str, Any]:
    """Seconds of the pipeline both ways, the share, and how long the engine took before its first task began.

    Args:
        rows: of the table, one seed each.
        epochs: of a row's student; the share is of rows only as far as they outlast teacher, targets and report.
        repeats: of both; every second one begins with the workers.
    """
    ways = {
        "one after another": ["pipeline", "--seeds", _SEEDS, *_UNRECORDED],
        "two workers": ["pipeline", "--on", str(ROOT / "examples/on/local.yaml"), "--seeds", _SEEDS, *_UNRECORDED],
    }
    found: dict[str, list[float]] = {**{way: [] for way in ways}, "before the first task": []}
    with tempfile.TemporaryDirectory() as home:
        for number in range(repeats):
            for way in list(ways)[:: -1 if number % 2 else 1]:
                folder, began = _experiment(Path(home) / f"{way.replace(' ', '-')}-{number}", rows, epochs), time.time()
                found[way].append(timed(ROOT, str(folder), ways[way]))
                if way == "two workers":
                    first = read_json(folder / ".work/engine/pipeline/tasks/prepare.json")
                    found["before the first task"].append(first["since"] - began)
    shares = [two / one for one, two in zip(found["one after another"], found["two workers"], strict=True)]
    measured = {name: spread(seconds) for name, seconds in found.items()}
    return {
        "rows": rows,
        "epochs": epochs,
        "share of the time of one after another": f"{spread(shares)['median']:.3f}",
        **measured,
    }


def _experiment(folder: Path, rows: int, epochs: int) -> Path:
    """The smoke experiment with that many rows."""
    folder.mkdir()
    longer = {"distill": {"recipe": {"epochs": epochs}}}
    YAML().dump(overlay(read_yaml(ROOT / "experiments/smoke/params.yaml"), longer), folder / "params.yaml")
    table = {f"row_{n}": {"label": f"Row {n}", "set": {"distill.lambda": 0.01 * (n + 1)}} for n in range(rows)}
    YAML().dump({"name": "toy", "rows": table}, folder / "rows.yaml")
    return folder


if __name__ == "__main__":
    print(measure(rows=int(sys.argv[1]), epochs=int(sys.argv[2]), repeats=1))

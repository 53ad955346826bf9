"""`attndistill compare`: what DVC's experiments change and what came out, on one screen.

`dvc exp show` has a column for every setting and every file that a stage reads; its `--only-changed` leaves those that
differ, digests of outputs among them. Here a line is a setting or a figure that differs, a column is an experiment.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attndistill.config import flat
from attndistill.core.words import shown
from attndistill.experiments import Experiment
from attndistill.tracking.history import plain_environment

WIDTH = 120
_LONGEST = 24  # letters of a name or a value


@dataclass(frozen=True)
class Shown:
    """One experiment, or the commit or working tree that it starts from.

    Attributes:
        name: DVC's; of a commit its branch or the beginning of its id.
        settings, figures: dotted key -> value as text.
    """

    name: str
    settings: Mapping[str, str]
    figures: Mapping[str, str]


def compare(experiment: Experiment, width: int = WIDTH) -> list[str]:
    """Lines of what differs between the working tree, its commit and the experiments that start from it.

    Raises:
        ValueError: the folder is no project of DVC, or DVC cannot tell its experiments.
    """
    if not (experiment.folder / ".dvc").is_dir():
        raise ValueError(f"{experiment.folder} is no project of DVC: `dvc init` there (in a git repository `--subdir`)")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--json"],
        cwd=experiment.folder,
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ValueError(f"`dvc exp show` in {experiment.folder} ended with {done.returncode}: {shown(lines[0], 500)}")
    return table(list(_experiments(json.loads(done.stdout))), width)


def _experiments(found: Sequence[Mapping[str, Any]]) -> Iterator[Shown]:
    for one in found:
        if one.get("data"):
            yield _shown(one.get("name") or _brief(one["rev"]), one["data"])
        for inner in one.get("experiments") or ():
            last = inner["revs"][0]
            if last.get("data"):
                yield _shown(inner.get("name") or _brief(last["rev"]), last["data"])


def _brief(revision: str) -> str:
    return revision if revision == "workspace" else revision[:7]


def _shown(name: str, data: Mapping[str, Any]) -> Shown:
    settings, measured = (
        {
            key: value
            for file in data[kind].values()
            if isinstance(file.get("data"), Mapping)
            for key, value in flat(file["data"]).items()
        }
        for kind in ("params", "metrics")
    )
    figures = {}
    for key, value in measured.items():
        if not key.endswith(("_sd", "_n")):
            sd = measured.get(f"{key}_sd")
            figures[key] = f"{value:g}" + (f" ± {sd:g}" if sd is not None else "")
    return Shown(shown(name, _LONGEST), {key: _text(value) for key, value in settings.items()}, figures)


def _text(value: object) -> str:
    return shown(json.dumps(value) if not isinstance(value, str) else value, _LONGEST)


def table(found: Sequence[Shown], width: int) -> list[str]:
    """As many experiments beside each other as fit, the others below; the first column says what differs."""
    lines = []
    for kind in ("settings", "figures"):
        every = dict.fromkeys(key for one in found for key in getattr(one, kind))
        told = {key: [getattr(one, kind).get(key, "-") for one in found] for key in every}
        lines += [(key, texts) for key, texts in told.items() if len(set(texts)) > 1]
    if len(found) < 2 or not lines:
        names = ", ".join(one.name for one in found) or "none"
        return [f"nothing differs between {names}: `dvc exp run -S section.key=value` makes an experiment"]
    first = min(max(len(key) for key, _ in lines), width // 3)
    widths = [max(len(text) for text in (one.name, *(texts[at] for _, texts in lines))) for at, one in enumerate(found)]
    said: list[str] = []
    for start, end in _blocks(widths, width - first):
        rows = [("", [one.name for one in found]), *lines]
        said += [""] if said else []
        for key, texts in rows:
            cells = [text.rjust(wide) for text, wide in zip(texts[start:end], widths[start:end], strict=True)]
            said.append("  ".join([shown(key, first).ljust(first), *cells]).rstrip())
    return said


def _blocks(widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(widths):
        end = start + 1
        while end < len(widths) and sum(widths[start : end + 1]) + 2 * (end + 1 - start) <= room:
            end += 1
        yield start, end
        start = end

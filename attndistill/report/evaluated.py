"""The paper's evaluation tables: k-NN, linear and fine-tuned (Table 2, Fig. 6), few labels, transfer; each a sheet.

One shape for all: a line a model, and for each data set its figures with their gaps to the teacher's, beside what was
published. A table is there where somebody measured something for it. Which kind of set one is, its files say: figures
of few labels name them in their protocol, transfer sets have other images than the experiment.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attndistill.figures.sweeps import Panel, curves_by_panel
from attndistill.report.columns import Column, columns_of, gaps, made_by, place_of
from attndistill.report.differences import measured_on
from attndistill.report.entries import TEACHER, Curve, Entry, aligned, data_of
from attndistill.report.sheet import Cell, Heading, Sheet
from attndistill.report.table import sweep_ends
from attndistill.results import Found

COMPARISON, FEW_LABELS, TRANSFER = "comparison", "few-labels", "transfer"
TITLES = {
    COMPARISON: "k-NN, linear and fine-tuned",
    FEW_LABELS: "Few labels",
    TRANSFER: "Transfer",
}
_LABELS = re.compile(r", ((?:[0-9.e-]+ % of labels|[0-9]+ labels of list)[^,]*)$")
_POINT = re.compile(
    r"(?:(?P<head>.+), )?rate (?P<rate>[0-9.e+-]+)"
    r"(?:, epoch (?P<epoch>[0-9]+))?(?:, (?P<of>validation|averaged weights))?"
)


@dataclass(frozen=True)
class Block:
    """The models as they were judged on one data set.

    Attributes:
        name: of the set; empty for the experiment's own.
        entries: the models, in the order of every other block.
        columns: what was measured.
    """

    name: str
    entries: Sequence[Entry]
    columns: Sequence[Column]

    @property
    def labels(self) -> str:
        """'1 % of labels (seed 0)' where figures are of few labels, else empty."""
        found = [match for column in self.columns if (match := _LABELS.search(column.protocol))]
        return found[0][1] if found else ""

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.name, self.labels)))

    def figures(self, *evaluations: str) -> list[Column]:
        """Top-1 of these evaluations (of all that learn from labels, without any), and fine-tuning's last epoch."""
        return [
            column
            for column in self.columns
            if column.evaluation.labels
            and column.is_accuracy
            and (column.is_first or column.metric == "last_top1")
            and (not evaluations or column.evaluation.name.split("_")[0] in evaluations)
        ]


def blocks_of(entries: Sequence[Entry], further: Mapping[str, Sequence[Entry]]) -> list[Block]:
    """The experiment's own data, then each further set."""
    return [Block(name, one, columns_of(one)) for name, one in {"": entries, **further}.items()]


def sheets(blocks: Sequence[Block]) -> dict[str, Sheet]:
    """Name of the file -> table, as far as there are figures for it."""
    own, *further = blocks
    images = data_of(own.entries)["data_digest"]
    few = [block for block in blocks if block.labels]
    others = [b for b in further if not b.labels and b.columns and data_of(b.entries)["data_digest"] != images]
    chosen: dict[str, list[tuple[Block, list[Column]]]] = {
        COMPARISON: [(own, own.figures("knn", "linear", "finetune"))]
        if not own.labels and own.figures("linear", "finetune")
        else [],
        FEW_LABELS: [(block, block.figures()) for block in few],
        TRANSFER: [(block, block.figures()) for block in others],
    }
    return {name: _sheet(found) for name, found in chosen.items() if found}


def _sheet(blocks: Sequence[tuple[Block, Sequence[Column]]]) -> Sheet:
    entries = blocks[0][0].entries
    teacher = place_of(entries)
    headings = [Heading("Method", left=True, fields=("model", "group", "label"))]
    lines = [[Cell(one.label, values=(one.name, one.group, one.label))] for one in entries]
    counts: list[set[int]] = [set() for _ in entries]
    for block, columns in blocks:
        for column in columns:
            key = f"{column.key}@{block.name}" if block.name else column.key
            published = [_published(one, column, key) for one in entries]
            title = column.evaluation.title + ("" if column.is_first else ", last epoch")
            parts = tuple(f"{key}_{part}" for part in ("mean", "sd", "n", "protocol"))
            headings.append(Heading(title, block.title, False, column.protocol, fields=parts))
            headings.append(Heading("gap", block.title, fields=(f"{key}_gap",), brief=column.is_first))
            shown = any(value is not None for value in published)
            headings += [Heading("published", block.title, fields=(f"{key}_published",), brief=False)] * shown
            best = column.best(teacher)
            for place, gap in enumerate(gaps(entries, column.means)):
                cell = column.cells[place]
                values = (cell.mean, cell.sd, cell.n, cell.protocol) if cell else ()
                counts[place] |= {cell.n} if cell else set()
                lines[place].append(Cell(column.text(place), bold=best == place, values=values))
                lines[place].append(Cell("" if gap is None else column.difference(gap), values=(gap,)))
                told = published[place]
                lines[place] += [Cell("" if told is None else f"{told:.1f}", values=(told,))] * shown
    headings.append(Heading("Seeds"))
    for line, found in zip(lines, counts, strict=True):
        line.append(Cell(", ".join(map(str, sorted(found)))))
    return Sheet(headings, [("", lines)], _notes(blocks), data_of(entries) if len(blocks) == 1 else {})


def _notes(blocks: Sequence[tuple[Block, Sequence[Column]]]) -> list[str]:
    notes = [
        "Top-1 in percent, mean ± sample standard deviation over seeds; gap: points to the teacher; bold: the best "
        "mean apart from the teacher's. Empty: not measured. Published: by the paper or the teacher's authors, of "
        "their own data and seeds; empty where no figure was read."
    ]
    for block, columns in blocks:
        name = f"{block.title}: " if block.title else ""
        notes += [f"{name}{note}" for note in [*made_by(columns), *sweep_ends(block.entries, columns)]]
    return [*notes, *measured_on(blocks[0][0].entries)]


def _published(entry: Entry, column: Column, key: str) -> float | None:
    """What the rows file says of it; the paper's own table is of Table 9's linear probe."""
    if key == "linear_top1" and key not in entry.published:
        return entry.paper[0]
    return entry.published.get(key)


def pictures(blocks: Sequence[Block]) -> dict[str, bytes]:
    """File name -> PNG: tuning.png (accuracy over epochs), rates.png (the sweeps), as far as there is any."""
    epochs: dict[str, Panel] = {}
    rates: dict[str, Panel] = {}
    for block in blocks:
        for column in (column for column in block.columns if column.is_first):
            for entry in (entry for entry in block.entries if entry.pictured and entry.probe):
                assert entry.probe is not None
                found = entry.probe.probes.get(column.evaluation.name)
                title = ": ".join(filter(None, (block.title, column.evaluation.title)))
                if found and (curve := _over_epochs(found)):
                    epochs.setdefault(title, {})[entry.label] = curve
                for head, swept in _over_rates(found).items() if found else ():
                    rates.setdefault(", ".join(filter(None, (title, head))), {})[entry.label] = swept
    teacher = next((entry.label for entry in blocks[0].entries if entry.name == TEACHER), None)
    drawn = {
        "tuning.png": (epochs, "epoch of fine-tuning", False),
        "rates.png": (rates, "rate, times the recipe's", True),
    }
    return {
        name: curves_by_panel(panels, xlabel=xlabel, logarithmic=logarithmic, teacher=teacher)
        for name, (panels, xlabel, logarithmic) in drawn.items()
        if panels
    }


def _points(found: Found) -> list[tuple[str, float, int, str, Mapping[int, float]]]:
    """Of a sweep over rates: head, rate, epoch (0: the end), on what, the percentage of each seed."""
    points: list[tuple[str, float, int, str, Mapping[int, float]]] = []
    for key, measured in found.sweep.items():
        if match := _POINT.fullmatch(key):
            values = dict(zip(measured.seeds, measured.values, strict=True))
            points.append(
                (match["head"] or "", float(match["rate"]), int(match["epoch"] or 0), match["of"] or "", values)
            )
    return points


def _over_epochs(found: Found) -> Curve | None:
    """Top-1 on test after each epoch that was judged, of each seed's chosen rate; two epochs or more."""
    curves: dict[int, dict[int, float]] = {}
    seeds = next(iter(found.figures.values())).seeds
    chosen = {seed: float(f"{rate:g}") for seed, rate in zip(seeds, found.selected.get("rate", ()), strict=False)}
    for _, rate, epoch, of, values in _points(found):
        for seed, value in values.items():
            if epoch and not of and chosen.get(seed) == rate:
                curves.setdefault(seed, {})[epoch] = value
    curve = aligned(curves)
    return curve if curve and len(curve[0]) > 1 else None


def _over_rates(found: Found) -> dict[str, Curve]:
    """Head -> top-1 on test at the end of each rate's run; two rates or more."""
    points = [point for point in _points(found) if not point[3]]
    last = max((epoch for _, _, epoch, _, _ in points), default=0)
    ends: dict[str, dict[float, Mapping[int, float]]] = {}
    for head, rate, epoch, _, values in points:
        if epoch == last:
            ends.setdefault(head, {})[rate] = values
    return {
        head: (np.array(sorted(by_rate)), np.array([[by_rate[r][seed] for r in sorted(by_rate)] for seed in seeds]))
        for head, by_rate in ends.items()
        if len(by_rate) > 1 and (seeds := sorted(set.intersection(*(set(v) for v in by_rate.values()))))
    }

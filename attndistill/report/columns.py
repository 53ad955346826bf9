"""The columns of the table: one figure of every model by one protocol, and its gap to the teacher's."""

from collections.abc import Sequence
from dataclasses import dataclass

from attndistill.report.results import TEACHER, Measurement, Row

METRICS = {"top1": "top-1", "top5": "top-5"}
_TITLES = {"knn": "k-NN", "logistic": "Logistic regression", "linear": "Linear", "finetune": "Fine-tuning"}
_NEAREST = ("linear", "logistic")  # to the linear probe of the paper's table, the nearest first


@dataclass(frozen=True)
class Column:
    """A figure measured for every model by one protocol.

    Attributes:
        probe: its key in the files ('knn'), or 'attention'.
        metric: 'top1', 'top5' or 'kl_to_teacher'.
        protocol: by which every cell was measured.
        feature: what was evaluated; empty where it differs between models or does not apply.
        cells: one for each row; None where nobody measured.
    """

    probe: str
    metric: str
    protocol: str
    feature: str
    cells: tuple[Measurement | None, ...]

    @property
    def is_accuracy(self) -> bool:
        return self.metric in METRICS

    @property
    def group(self) -> str:
        return _TITLES.get(self.probe, self.probe) if self.is_accuracy else "KL to teacher"

    @property
    def heading(self) -> str:
        return f"{METRICS[self.metric]} (%)" if self.is_accuracy else "nats"

    @property
    def title(self) -> str:
        return f"{self.group} {METRICS[self.metric]}" if self.is_accuracy else self.group

    @property
    def digits(self) -> int:
        return 1 if self.is_accuracy else 3

    @property
    def means(self) -> list[float | None]:
        return [cell.mean if cell else None for cell in self.cells]

    def best(self, excluded: int | None) -> int | None:
        """The row of the best mean apart from the row `excluded`; None below two candidates."""
        means = [(cell.mean, row) for row, cell in enumerate(self.cells) if cell is not None and row != excluded]
        if len(means) < 2:
            return None
        return (max if self.is_accuracy else min)(means, key=lambda entry: entry[0])[1]


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Every column that somebody measured: the probes in their usual order, then KL to the teacher.

    Raises:
        ValueError: a column whose cells were measured by different protocols.
    """
    met = {name for row in rows if row.probe for name in row.probe.probes}
    order = [*(name for name in _TITLES if name in met), *sorted(met - set(_TITLES))]
    columns = []
    for probe in order:
        found = [row.probe.probes.get(probe) if row.probe else None for row in rows]
        features = {row.probe.feature for row, entry in zip(rows, found, strict=True) if row.probe and entry}
        feature = features.pop() if len(features) == 1 else ""
        for metric in METRICS:
            cells = tuple(getattr(entry, metric) if entry else None for entry in found)
            columns += _column(rows, probe, metric, feature, cells)
    kl = tuple(row.attention.kl_to_teacher if row.attention else None for row in rows)
    return columns + _column(rows, "attention", "kl_to_teacher", "", kl)


def _column(
    rows: Sequence[Row], probe: str, metric: str, feature: str, cells: tuple[Measurement | None, ...]
) -> list[Column]:
    measured = [(row.name, cell.protocol) for row, cell in zip(rows, cells, strict=True) if cell]
    if not measured:
        return []
    first, protocol = measured[0]
    for name, other in measured[1:]:
        if other != protocol:
            raise ValueError(
                f"{probe} {metric}: {first} was measured by {protocol}, {name} by {other}; a column allows one protocol"
            )
    return [Column(probe, metric, protocol, feature, cells)]


def shown(cell: Measurement | None, digits: int) -> str:
    """'90.9 ± 0.4'; without sd below two seeds; empty where nobody measured."""
    if cell is None:
        return ""
    return f"{cell.mean:.{digits}f}" + ("" if cell.sd is None else f" ± {cell.sd:.{digits}f}")


def teacher_place(rows: Sequence[Row]) -> int | None:
    """Which row is the teacher's; None without one."""
    return next((place for place, row in enumerate(rows) if row.name == TEACHER), None)


def gaps(rows: Sequence[Row], figures: Sequence[float | None]) -> list[float | None]:
    """Each row's figure - the teacher's; None for the teacher and where either is missing."""
    teacher = teacher_place(rows)
    wanted = None if teacher is None else figures[teacher]
    return [
        None if figure is None or wanted is None or place == teacher else figure - wanted
        for place, figure in enumerate(figures)
    ]


def nearest_to_paper(columns: Sequence[Column]) -> Column | None:
    """Our top-1 by the probe that is nearest to the paper's."""
    ours = {column.probe: column for column in columns if column.metric == "top1"}
    return next((ours[probe] for probe in _NEAREST if probe in ours), None)


def paper_gaps(rows: Sequence[Row]) -> list[float | None]:
    """The paper's top-1 of each row - that of its teacher."""
    return gaps(rows, [row.paper[0] for row in rows])


def our_gaps(rows: Sequence[Row], column: Column | None) -> list[float | None]:
    """The means of a column - the teacher's."""
    return gaps(rows, column.means) if column else [None] * len(rows)


def has_paper(rows: Sequence[Row]) -> bool:
    """Whether the paper prints a figure of any row."""
    return any(figure is not None for row in rows for figure in row.paper)


def signed(difference: float | None, sd: float | None = None) -> str:
    """'+1.4 ± 0.6' with a true minus sign; empty where there is nothing."""
    if difference is None:
        return ""
    return f"{difference:+.1f}".replace("-", "−") + ("" if sd is None else f" ± {sd:.1f}")


def seeds_of(columns: Sequence[Column], row: int) -> str:
    """The seed count of a row; all counts where its figures differ, empty without figures."""
    counts = sorted({cell.n for column in columns if (cell := column.cells[row]) is not None})
    return ", ".join(str(count) for count in counts)

"""The columns of the table: one figure of every model by one protocol, and its gap to the teacher's.

Which figures there are, their titles, units, digits and order is what the registry of evaluations declares.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attndistill.core.words import shown
from attndistill.evaluations import Evaluation, Figure, evaluations
from attndistill.report.entries import TEACHER, Entry
from attndistill.results import Measurement

_NEAREST = ("linear", "logistic")  # to the linear probe of the paper's table, the nearest first


@dataclass(frozen=True)
class Column:
    """A figure measured for every model by one protocol.

    Attributes:
        evaluation, metric: whose figure, and its name in the files.
        protocol: by which every cell was measured.
        feature: what was evaluated; empty where it differs between models or does not apply.
        cells: one for each entry; None where nobody measured.
    """

    evaluation: Evaluation
    metric: str
    protocol: str
    feature: str
    cells: tuple[Measurement | None, ...]

    @property
    def figure(self) -> Figure:
        return self.evaluation.figures[self.metric]

    @property
    def key(self) -> str:
        """'knn_top1'."""
        return self.evaluation.key(self.metric)

    @property
    def is_first(self) -> bool:
        """Whether it is the evaluation's first figure: the one that is compared, drawn and printed in a terminal."""
        return self.metric == next(iter(self.evaluation.figures))

    @property
    def is_accuracy(self) -> bool:
        """Whether it is percent, the more the better."""
        return self.figure.unit == "%" and self.figure.direction == "maximize"

    @property
    def heading(self) -> str:
        """'top-1 (%)', below the evaluation's title."""
        unit, title = self.figure.unit, self.figure.title
        return (unit or title) if title == self.evaluation.title else f"{title} ({unit})" if unit else title

    @property
    def title(self) -> str:
        """'k-NN top-1', standing alone."""
        title = self.evaluation.title
        return title if self.figure.title == title else f"{title} {self.figure.title}"

    @property
    def means(self) -> list[float | None]:
        return [cell.mean if cell else None for cell in self.cells]

    def best(self, *excluded: int | None) -> int | None:
        """The entry of the best mean apart from those excluded; None below two candidates."""
        means = [(mean, place) for place, mean in enumerate(self.means) if mean is not None and place not in excluded]
        if len(means) < 2:
            return None
        return (max if self.figure.direction == "maximize" else min)(means, key=lambda found: found[0])[1]

    def text(self, place: int) -> str:
        """'90.9 ± 0.4'; without sd below two seeds; empty where nobody measured."""
        cell, digits = self.cells[place], self.figure.digits
        if cell is None:
            return ""
        return f"{cell.mean:.{digits}f}" + ("" if cell.sd is None else f" ± {cell.sd:.{digits}f}")

    def difference(self, mean: float, sd: float | None = None) -> str:
        """'+1.40 ± 0.55', with a true minus sign; points of percent with one digit more than percentages."""
        digits = self.figure.digits + (self.figure.unit == "%")
        return f"{mean:+.{digits}f}".replace("-", "−") + ("" if sd is None else f" ± {sd:.{digits}f}")

    @property
    def difference_unit(self) -> str:
        return "points" if self.figure.unit == "%" else self.figure.unit


def columns_of(entries: Sequence[Entry]) -> list[Column]:
    """Every column that somebody measured, in the order of the registry.

    Raises:
        ValueError: a column whose cells were measured by different protocols.
    """
    columns = []
    for name, evaluation in evaluations().items():
        on_maps = evaluation.on == "maps"
        sources = [
            entry.attention if on_maps else entry.probe.probes.get(name) if entry.probe else None for entry in entries
        ]
        features = {entry.feature for entry, found in zip(entries, sources, strict=True) if found and not on_maps}
        feature = features.pop() if len(features) == 1 else ""
        for metric in evaluation.figures:
            cells = tuple(found.figures.get(metric) if found else None for found in sources)
            measured = [(entry.name, cell.protocol) for entry, cell in zip(entries, cells, strict=True) if cell]
            for other, protocol in measured[1:]:
                if protocol != measured[0][1]:
                    raise ValueError(
                        f"{name} {metric}: {measured[0][0]} was measured by {measured[0][1]}, {other} by {protocol}; "
                        "a column allows one protocol"
                    )
            if measured:
                columns.append(Column(evaluation, metric, shown(measured[0][1]), feature, cells))
    return columns


def place_of(entries: Sequence[Entry], name: str = TEACHER) -> int | None:
    """Which entry has a name; None without it."""
    return next((place for place, entry in enumerate(entries) if entry.name == name), None)


def gaps(entries: Sequence[Entry], figures: Sequence[float | None]) -> list[float | None]:
    """Each entry's figure - the teacher's; None for the teacher and where either is missing."""
    teacher = place_of(entries)
    wanted = None if teacher is None else figures[teacher]
    return [
        None if figure is None or wanted is None or place == teacher else figure - wanted
        for place, figure in enumerate(figures)
    ]


def nearest_to_paper(columns: Sequence[Column]) -> Column | None:
    """Our top-1 by the probe that is nearest to the paper's."""
    ours = {column.evaluation.name: column for column in columns if column.is_first}
    return next((ours[probe] for probe in _NEAREST if probe in ours), None)


def usual_feature(entries: Sequence[Entry], columns: Sequence[Column]) -> str:
    """What most models were judged by; empty where all were judged by the same, which the column names."""
    features = [entry.feature for entry in entries if entry.probe]
    if not features or all(column.feature for column in columns if column.evaluation.on != "maps"):
        return ""
    return Counter(features).most_common(1)[0][0]


def made_by(columns: Sequence[Column]) -> list[str]:
    """'k-NN: knn/dino-v1, on cls_token before the projector.', once for each evaluation and protocol."""
    made = dict.fromkeys((column.evaluation.title, column.protocol, column.feature) for column in columns)
    return [f"{title}: {protocol}{', on ' + feature if feature else ''}." for title, protocol, feature in made]

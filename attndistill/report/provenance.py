"""How figures were made, in words: protocols, features, the class list and the data."""

from collections import Counter
from collections.abc import Sequence

from attndistill.report.columns import Column
from attndistill.report.results import Row, data_of


def made_by(columns: Sequence[Column]) -> list[str]:
    """'k-NN: knn/dino-v1, on cls_token before the projector.', once for each probe and protocol."""
    made = dict.fromkeys((column.group, column.protocol, column.feature) for column in columns)
    return [f"{group}: {protocol}{', on ' + feature if feature else ''}." for group, protocol, feature in made]


def usual_feature(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """What most models were judged by; empty where all were judged by the same, which the column names."""
    if all(column.feature for column in columns if column.is_accuracy):
        return ""
    return Counter(row.probe.feature for row in rows if row.probe).most_common(1)[0][0]


def unusual_feature(row: Row, usual: str) -> str:
    """What to print beside the row's label: its feature, where it is not the usual one."""
    return row.probe.feature if usual and row.probe and row.probe.feature != usual else ""


def features_by_row(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Which models were judged by which feature, for a table that has no line of its own for a model."""
    usual = usual_feature(rows, columns)
    others = [f"{row.label}: {feature}" for row in rows if (feature := unusual_feature(row, usual))]
    return [f"Features: {'; '.join([usual, *others])}."] if usual else []


def measured_on(rows: Sequence[Row]) -> list[str]:
    """The class list and the data by their digests; nothing where nobody measured."""
    found = data_of(rows)
    if not all(found.values()):
        return []
    return [f"Class list SHA-256 {found['class_list_sha256']}; data digest {found['data_digest']}."]

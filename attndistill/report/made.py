"""How each figure was made: by which command, with which settings and seeds, and what to type to make it again.

The page names neither its own commit nor a run: with them it would never be the same bytes twice. `attndistill trace`
knows both.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attndistill.core.words import shown
from attndistill.report.columns import Column
from attndistill.report.entries import Entry
from attndistill.report.sheet import Cell, Heading, Sheet

TRACE = (
    "Type the commands in this experiment's folder. `attndistill trace` without more says which run and commit made "
    "each figure; `attndistill trace MODEL COLUMN` follows one back to data and teacher. This page names neither run "
    "nor commit: with them it would never be the same bytes twice."
)
_TRAINING = ("recipe.base_learning_rate", "recipe.batch_size", "recipe.epochs")
_GUIDANCE = ("lambda", "aggregation.temperature", "projector_depth")


def anchor(model: str, column: Column, data: str) -> str:
    """Of the line that says how a figure of a model was made."""
    return f"made-{_file_of(model, column, data)}"


def _file_of(model: str, column: Column, data: str) -> str:
    """The result file that holds a figure, below results/."""
    name = f"{model}@{data}" if data else model
    return f"{'attention' if column.evaluation.on == 'maps' else 'probes'}/{name}.json"


def made_sheet(entries: Sequence[Entry], columns: Sequence[Column], data: str = "") -> Sheet:
    """A line for each result file of a model: its figures, seeds, command, and how to make it again.

    Args:
        data: the further data set that the models were judged on; "" is the experiment's own.
    """
    headings = [Heading(name, left=True) for name in ("Method", "Figures", "Seeds", "Made by", "Make it again")]
    lines = [line for place, entry in enumerate(entries) for line in _lines(entry, place, columns, data)]
    return Sheet(headings, [("", lines)] if lines else [], [TRACE])


def _lines(entry: Entry, place: int, columns: Sequence[Column], data: str) -> Iterator[list[Cell]]:
    measured = [column for column in columns if column.cells[place]]
    for file in dict.fromkeys(_file_of(entry.name, column, data) for column in measured):
        own = [column for column in measured if _file_of(entry.name, column, data) == file]
        titles = dict.fromkeys(column.evaluation.title for column in own)
        seeds = sorted({seed for column in own if (cell := column.cells[place]) for seed in cell.seeds})
        stage = "attention" if file.startswith("attention/") else "probe"
        command = f"attndistill {stage} --model {entry.name}{f' --data {data}' if data else ''}"
        yield _line(Cell(entry.label, at=f"made-{file}"), ", ".join(titles), seeds, command, f"results/{file}")
    if entry.training is not None and entry.training.curves and not data:
        stage = "distill --row" if entry.is_distilled else "pretrain --model"
        seeds = sorted(map(int, entry.training.curves))
        file = f"results/training/{entry.name}.json"
        yield _line(Cell(entry.label), "weights, losses", seeds, f"attndistill {stage} {entry.name}", file)


def _line(label: Cell, what: str, seeds: Sequence[int], command: str, file: str) -> list[Cell]:
    return [label, *map(Cell, (what, ", ".join(map(str, seeds)), command, f"attndistill rebuild {file}"))]


def settings_sheet(entries: Sequence[Entry], settings: Mapping[str, Mapping[str, Any]]) -> Sheet:
    """What each model was trained with, and what its row changes.

    Args:
        settings: model -> dotted key -> value, resolved; models that it lacks were not trained here.
    """
    names = ("lambda", "T", "Layers of P", "Base learning rate", "Batch", "Epochs")
    headings = [Heading("Method", left=True), *map(Heading, names), Heading("What the row changes", left=True)]
    lines = []
    for entry in entries:
        if (found := settings.get(entry.name)) is None:
            continue
        stage = "distill" if entry.is_distilled else "pretrain"
        keys = [f"{stage}.{key}" for key in (*_GUIDANCE, *_TRAINING)]
        texts = [_text(found[key]) if found.get(key) is not None else "" for key in keys]
        if found.get("distill.lambda") == 0 or not entry.is_distilled:
            texts[1] = ""  # nothing is aggregated
        changes = ", ".join(f"{key} {_text(value)}" for key, value in entry.settings.items())
        lines.append([Cell(text) for text in (entry.label, *texts, changes)])
    notes = ["The peak of the learning rate is the base times batch / 256."]
    return Sheet(headings, [("", lines)] if lines else [], notes)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value, 200)

"""An experiment: a folder that stands alone, with a rows file and what differs from the defaults in a params.yaml.

A row's `set` is what runs; labels, groups, the paper's figures and its claims are what the report prints.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attndistill.config import Config, flat, nested, read_yaml, resolve
from attndistill.config.rows import Row, RowsFile
from attndistill.config.transfer import with_transfer_presets
from attndistill.core.places import project_folder
from attndistill.core.words import shown
from attndistill.stages.declaration import Item, Stage
from attndistill.stages.layout import MODELS, Layout

SETTINGS, ROWS, EXPERIMENTS = "params.yaml", "rows.yaml", "experiments"
DEFAULTS = Path(__file__).with_name(SETTINGS)  # the params.yaml at the top of the repository, also when installed
# made once for all rows, by stages that no row reaches, or of the machine; targets.cache is a row's own
SHARED = (
    "downloads",
    "data",
    "views",
    "datasets",
    "teacher",
    "teacher_seed",
    "pretrain",
    "targets.views",
    "targets.verify",
    "targets.extra",
    "exports",
    "runtime",
)


@dataclass(frozen=True)
class Experiment:
    """A folder's rows and configuration, not yet overlaid by a row or the command line.

    Attributes:
        folder: where params.yaml, rows.yaml, outputs/ and results/ are.
        name: of the rows file, else the folder's.
        file: rows and what the report prints of them.
        layers: settings, the defaults first.
    """

    folder: Path
    name: str
    file: RowsFile
    layers: Sequence[Mapping[str, Any]]

    @property
    def layout(self) -> Layout:
        """Where its files lie."""
        sets = [layer.get("datasets") for layer in self.layers]
        named = {name: one for found in sets if isinstance(found, Mapping) for name, one in found.items()}
        own = [name for name, one in named.items() if isinstance(one, Mapping) and not one.keys() & {"data", "preset"}]
        return Layout(self.folder, self.name, shared=frozenset(own))

    @property
    def project(self) -> Path:
        """The folder with the tracking store, which experiments of a repository share."""
        return project_folder(self.folder)

    @property
    def rows(self) -> Mapping[str, Row]:
        """By name, in the table's order."""
        return self.file.rows

    def config(self, item: str, overrides: Mapping[str, Any]) -> Config:
        """The configuration of one item: base, experiment, the item's row, the command line."""
        row = nested(self.rows[item].set) if item in self.rows else {}
        layers = [*self.layers, row, nested(overrides)]
        layers += _teacher_as_it_is(self.folder, layers)
        try:
            return resolve([with_transfer_presets(layer) for layer in layers])
        except ValueError as error:
            raise ValueError(shown(error, 1000)) from None

    def items(self, stage: Stage, config: Config, rows: Sequence[str] | None = None) -> tuple[Item, ...]:
        """Everything that a stage works on here: of these rows, or of all."""
        names = tuple(self.rows) if rows is None else rows
        found = stage.items(names, tuple(config.datasets), self.asked(config))
        own = self.layout.shared if stage.over == "nothing" else frozenset()  # prepared with the experiment's own data
        return tuple(item for item in found if item.data not in own)

    def asked(self, config: Config) -> dict[str, tuple[str, ...]]:
        """What is asked for by name: downloads and exports. Raises ValueError for a model that is none."""
        models = (*MODELS, *self.rows)
        for name in config.exports:
            if name not in models:
                raise ValueError(
                    f"exports: unknown model {shown(name, 80)!r}; allowed: {shown(', '.join(models), 500)}"
                )
        return {"download": tuple(config.downloads), "export": tuple(config.exports)}

    def changes(self, item: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """What differs from the defaults, dotted key -> value: by the experiment, the item's row, the command line."""
        row = self.rows[item].set if item in self.rows else {}
        base, own = flat(self.layers[0]), flat(self.layers[-1])
        changed = {key: value for key, value in own.items() if base.get(key, self) != value}
        return {**changed, **flat(nested(row)), **flat(nested(overrides))}

    def check_rows(self, overrides: Mapping[str, Any]) -> None:
        """Raise ValueError for a row that fits neither the files nor the command line laid over them.

        A row that the command line alone makes impossible is no mistake of the files: it may be another's command.
        """
        for name in self.rows:
            try:
                self.config(name, overrides)
            except ValueError as error:
                try:
                    self.config(name, {})
                except ValueError:
                    raise ValueError(f"rows.{name}: {error}") from None


def _teacher_as_it_is(folder: Path, layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The sizes of a teacher from elsewhere, read from its file where it is there: they are not asked for."""
    source: Any = None
    for layer in layers:
        teacher = layer.get("teacher")
        source = teacher.get("source", source) if isinstance(teacher, Mapping) else source
    if not isinstance(source, Mapping) or not isinstance(source.get("path"), str):
        return []
    path = folder / source["path"]
    if not path.exists():
        return []
    status = path.stat()
    given = tuple(sorted((key, value) for key, value in source.items() if isinstance(value, str | int)))
    return [{"teacher": _sizes({**dict(given), "path": str(path)}, (status.st_mtime_ns, status.st_size))}]


def _sizes(source: Mapping[str, Any], state: tuple[int, int]) -> dict[str, Any]:
    key = (*sorted(source.items()), state)
    if key not in _known:
        from attndistill.models.teachers.sizes import sizes_of_file

        try:
            _known[key] = sizes_of_file(source)
        except ValueError:  # the stage that loads it says what is wrong with it
            _known[key] = {}
    return _known[key]


_known: dict[Any, dict[str, Any]] = {}  # a file is read once a process


def open_experiment(folder: Path) -> Experiment:
    """Read an experiment. Raises ValueError for what is missing or wrong, one line.

    Args:
        folder: holds a rows.yaml; relative to the working directory.
    """
    place = folder.resolve()
    if not (place / ROWS).is_file():
        advice = "run this in an experiment's folder, or name one by --experiment"
        raise ValueError(f"{shown(folder)} has no {ROWS}: {advice}")
    _check_place(place, folder)
    own = [read_yaml(place / SETTINGS)] if os.path.lexists(place / SETTINGS) else []
    for settings in own:
        _check_keys(place / SETTINGS, settings)
    file = _read_rows(place / ROWS)
    return Experiment(place, file.name or place.name, file, [read_yaml(DEFAULTS), *own])


def _check_keys(path: Path, settings: Mapping[str, Any]) -> None:
    """A key of params.yaml is a word; the way to one is written in rows and on the command line."""
    for key, value in settings.items():
        if "." in str(key):
            section = str(key).replace(".", ": {") + ": ..." + "}" * str(key).count(".")
            why = "keys with dots belong to rows and the command line"
            raise ValueError(f"{path}: {shown(key)}: {why}; allowed here: {shown(section)}")
        if isinstance(value, Mapping):
            _check_keys(path, value)


def _check_place(place: Path, given: Path) -> None:
    """What lies within a project's experiments/ is an experiment directly below it, or a part of one and none itself.

    Behind a hidden folder another project begins: one of DVC's temporary copies.
    """
    for inside in (place, *place.parents):
        if inside.name.startswith("."):
            return
        if inside.name == EXPERIMENTS and (inside.parent / SETTINGS).is_file():
            if place.parent != inside:
                allowed = f"a project's own folder, or one directly under {shown(inside)}"
                raise ValueError(f"{shown(given)} is no experiment's folder; allowed: {allowed}")
            return


def _read_rows(path: Path) -> RowsFile:
    try:
        found = RowsFile.model_validate(read_yaml(path))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = shown(".".join(map(str, problem["loc"]))) or "rows file"
        given = "" if problem["type"] == "value_error" else f" (given {shown(repr(problem['input']))})"
        said = shown(problem["msg"].removeprefix("Value error, "), 500)
        raise ValueError(f"{path}: {place}: {said}{given}") from None
    _check_names(path, found)
    for name, row in found.rows.items():
        try:
            _check_set(row)
        except ValueError as error:
            raise ValueError(f"{path}: rows.{name}.set: {error}") from None
    return found


def _check_set(row: Row) -> None:
    for key in flat(nested(row.set)):
        if any(f"{key}.".startswith(f"{shared}.") for shared in SHARED):
            raise ValueError(f"{key}: a row cannot change {', '.join(SHARED)}")


def _check_names(path: Path, file: RowsFile) -> None:
    for name in file.rows:
        if name in MODELS:
            raise ValueError(f"{path}: row name {name!r} is taken by a pre-trained model")
        if not re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_-]*", name):
            raise ValueError(
                f"{path}: row name {shown(name, 80)!r}; allowed: letters, digits, _ and, not at its beginning, - "
                "(it goes into dotted keys and onto command lines)"
            )
    claimed = [name for claim in file.claims for name in (*claim.better, *claim.worse)]
    for kind, names, allowed in (
        ("models", file.models, MODELS),
        ("pictures", file.pictures or (), tuple(file.rows)),
        ("claims", claimed, (*MODELS, *file.rows)),
    ):
        for name in names:
            if name not in allowed:
                raise ValueError(f"{path}: {kind}: unknown {shown(name, 80)!r}; allowed: {', '.join(allowed)}")

"""A study file on an experiment: checked against the configuration and laid over it for a trial; its name and place."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from attndistill.config import Config, flat
from attndistill.core.artifacts import digest_of
from attndistill.core.words import shown
from attndistill.experiments import Experiment
from attndistill.outcomes import Value, judged
from attndistill.pipeline import missing_input
from attndistill.stages.layout import Layout
from attndistill.study.definition import Definition, read_definition
from attndistill.study.storage import Place
from attndistill.tracking.spool import work_folder

_SEARCHABLE = ("student.", "distill.")  # everything else is shared by the trials: data, teacher, targets, protocols
_DECIDING = ("data", "views", "student", "targets", "distill", "probe", "attention")  # sections of a trial's figures
_FIXED = ("runtime.processes", "attention.images_per_class")  # by every study


@dataclass(frozen=True)
class Search:
    """A checked study file on an experiment, with its storage.

    Attributes:
        name: of the file, without its ending.
        definition: what the file says.
        experiment: whose data, teacher, targets and row are used.
        overrides: dotted key -> value, from the command line; below the searched values.
        place: the storage.
        lineage: where the study's own recording on this machine keeps what led to it; None where nothing is recorded.
    """

    name: str
    definition: Definition
    experiment: Experiment
    overrides: Mapping[str, Any]
    place: Place
    lineage: Path | None = None

    def config(self, point: Mapping[str, Value]) -> Config:
        """The configuration of a trial. Raises ValueError for values that do not fit together."""
        fixed: dict[str, Any] = {"seeds": self.definition.seeds}
        fixed |= dict.fromkeys(_FIXED, 1)  # workers stand side by side, not seeds; a trial is pictured shortly
        return self.experiment.config(self.definition.row, {**self.overrides, **fixed, **point})

    @property
    def layout(self) -> Layout:
        """Paths of the experiment."""
        return self.experiment.layout

    @property
    def departures(self) -> dict[str, Any]:
        """Settings of the command line that decide figures: a study with any is not the file's."""
        return {key: value for key, value in self.overrides.items() if not key.startswith("runtime.")}

    @property
    def configuration(self) -> str:
        """A digest of all settings that a trial's figures depend on; data and teacher are beside it.

        A searched key's value in params.yaml decides nothing: adopting the winner leaves the study what it is. Nor does
        a setting that is null, or of an evaluation that does not judge: a key that comes with a later version renames
        no study.
        """
        plain = self.config({}).plain()
        settings = flat({name: plain[name] for name in _DECIDING})
        deciding = {key: value for key, value in settings.items() if value is not None and self._decides(key)}
        probes = [judge.name for judge in self.definition.evaluations if judge.on == "features"]
        deciding |= {f"probe.{name}.name": name for name in probes}  # a setting once; studies keep their names
        chosen = self.definition.plain()
        asked = {key: chosen[key] for key in ("row", "search", "objectives", "seeds")}
        return digest_of({"settings": deciding, "definition": asked})[:8]

    def _decides(self, key: str) -> bool:
        section, _, rest = key.partition(".")
        judges = self.definition.evaluations
        if section == "probe":
            return rest.partition(".")[0] in [judge.name for judge in judges]
        if section == "attention":
            return rest == "temperature" and any(judge.on == "maps" for judge in judges)
        return key not in (*self.definition.search, "distill.probe_every")  # a curve on the way

    @property
    def inputs(self) -> list[Path]:
        """What every trial reads."""
        return [self.layout.data, self.layout.model("teacher"), self.layout.targets]

    @property
    def missing(self) -> str | None:
        """The first of them that is not there, and how to make it."""
        return next((missing_input(self.experiment, path) for path in self.inputs if not path.exists()), None)

    @cached_property
    def digest(self) -> str:
        """Of all that a trial's figures depend on: the end of the study's name tells studies of one file apart.

        Raises:
            ValueError: data, teacher or targets are missing.
        """
        from attndistill.study.validation import inputs_identity

        if self.missing is not None:
            raise ValueError(f"study: {self.missing}")
        identity = inputs_identity(self.experiment, self.config({}))
        return digest_of({"configuration": self.configuration, "inputs": identity})[:8]

    @property
    def stored_name(self) -> str:
        """Of the study in its storage."""
        return f"{re.sub('[^A-Za-z0-9_-]', '-', self.experiment.name)}-{self.name}-{self.digest}"

    @property
    def folder(self) -> Path:
        """Where its trials work."""
        return work_folder(self.experiment.project) / "study" / self.stored_name

    def trial_folder(self, point: Mapping[str, Value]) -> Path:
        """Where one trial works, named by its settings."""
        return self.folder / digest_of(dict(point))[:16]

    def forget(self, point: Mapping[str, Value]) -> None:
        """Remove what a finished trial worked on: its figures and pictures are in the storage."""
        shutil.rmtree(self.trial_folder(point), ignore_errors=True)


def read_search(
    path: Path,
    experiment: Experiment,
    overrides: Mapping[str, Any],
    storage: str | None = None,
    artifacts: str | None = None,
) -> Search:
    """Read and check a study file, then where it is to be stored.

    Raises:
        ValueError: every mistake in one line: place, what was given, what is allowed.
    """
    definition = read_definition(path)
    search = Search(path.stem, definition, experiment, overrides, Place(""))
    try:
        _check_keys(search)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {shown(error, 400)}") from None
    return replace(search, place=Place.of(experiment.project, storage, artifacts))


def _check_keys(search: Search) -> None:
    """Every key exists, and every value that a trial may be given is one the configuration takes."""
    rows, definition = search.experiment.rows, search.definition
    if definition.row not in rows:
        raise ValueError(f"row: {definition.row!r}; allowed: {', '.join(rows)}")
    for key in search.overrides:
        if key == "seeds" or key in _FIXED:
            raise ValueError(f"--{key}: a study sets it itself{' (seeds in this file)' * (key == 'seeds')}")
    config = search.config({})
    if config.probe.labels.fraction is not None or config.probe.labels.list_file is not None:
        raise ValueError("probe.labels is set: a study judges trials with all labels of train; allowed: null")
    if config.data.set.name == "photos" and (asking := [n for n in definition.objectives if _asks_labels(n)]):
        raise ValueError(
            f"objectives: {asking[0]} asks for labels, photos have none; allowed: kl_to_teacher, parameters"
        )
    for name in definition.trained:
        evaluation = judged()[name][0].name
        if evaluation not in config.probe.chosen():
            raise ValueError(f"objectives: {name} asks for probe.{evaluation}, which is null; allowed: its settings")
    known = flat(config.plain())
    searchable = [key for key in known if key.startswith(_SEARCHABLE)]
    for key, distribution in definition.search.items():
        if key in search.overrides:
            raise ValueError(f"search.{key}: set on the command line too")
        if key not in searchable:
            kind = "shared by all trials" if key in known else "unknown key"
            raise ValueError(f"search.{key}: {kind}; allowed: {', '.join(searchable)}")
        for value in distribution.corners:
            _try(search, f"search.{key}", {key: value})
    for place, point in enumerate(definition.enqueue):
        _try(search, f"enqueue.{place}", point)


def _asks_labels(objective: str) -> bool:
    return objective in judged() and judged()[objective][0].labels


def _try(search: Search, place: str, point: Mapping[str, Value]) -> None:
    try:
        search.config(point)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None

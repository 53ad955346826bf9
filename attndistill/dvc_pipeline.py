"""An experiment's own dvc.yaml, derived from the default's: one list of stages, kept in one place.

`dvc repro` at the top runs the embedded default alone; `dvc repro experiments/<name>/dvc.yaml` runs an experiment's.
"""

import io
from pathlib import Path
from typing import Any

from attndistill.config import read_yaml
from attndistill.core.artifacts import write_text
from attndistill.experiments import Experiment, open_experiment

DEFAULT = "digits"
_HEADER = """\
# Derived from the dvc.yaml at the top by `attndistill dvc-file --experiment experiments/{name}`; not edited by hand.
# Run it with `dvc repro experiments/{name}/dvc.yaml`.
"""


def write_dvc_file(root: Path, name: str) -> Path:
    """Write experiments/<name>/dvc.yaml and return its path.

    Raises:
        ValueError: the default, which has its own; settings or a row that no stage would run with.
    """
    if name == DEFAULT:
        raise ValueError(f"experiments/{DEFAULT} is the embedded default: its stages are in the dvc.yaml at the top")
    path = root / "experiments" / name / "dvc.yaml"
    write_text(path, derive_dvc_file(root, name))
    return path


def derive_dvc_file(root: Path, name: str) -> str:
    """The text of experiments/<name>/dvc.yaml.

    Paths are the experiment's, commands name it, and each stage also watches those sections of the experiment's
    params.yaml that it reads (an overlay holds only what differs). Plots are the default's alone: DVC shows those of
    every dvc.yaml or none, so one experiment whose outputs are not in the cache would take the others' away.
    """
    from ruamel.yaml import YAML

    experiment = open_experiment(root, f"experiments/{name}")
    config = experiment.config("", {})
    experiment.check_rows({})
    changes = experiment.layers[1] if len(experiment.layers) > 1 else {}
    default: dict[str, Any] = _renamed(read_yaml(root / "dvc.yaml"), name)
    stages = {
        found: stage
        for key, value in default["stages"].items()
        for found, stage in _derived(key, value, name, set(changes)).items()
    }
    overlaid = changes.get("downloads", {})
    fetched = {f"fetch_{item}": _fetch(item, name, overlaid=item in overlaid) for item in config.downloads}
    for key, paths in _outside(experiment).items():
        stage = stages[key].get("do", stages[key])
        stage["deps"] = [*stage["deps"], *paths]
    derived = {"vars": ["rows.yaml"], "stages": fetched | stages}
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump(derived, text)
    return _HEADER.format(name=name) + text.getvalue()


def _renamed(value: Any, name: str) -> Any:
    """Every path of the default experiment as this experiment's."""
    if isinstance(value, dict):
        return {_renamed(key, name): _renamed(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, name) for item in value]
    if not isinstance(value, str):
        return value
    for folder in ("experiments", "outputs", "results"):
        value = value.replace(f"{folder}/{DEFAULT}", f"{folder}/{name}")
    return value


def _derived(key: str, stage: dict[str, Any], name: str, changed: set[str]) -> dict[str, Any]:
    """The stage under its name, or one stage an item where the items read different sections."""
    items, template = stage.get("foreach"), stage.get("do", stage)
    if not isinstance(items, dict):
        plain = _at_top(template, name, changed)
        return {key: {"foreach": items, "do": plain} if items else plain}
    return {f"{key}_{item}": _at_top(_filled(template, item, values), name, changed) for item, values in items.items()}


def _filled(value: Any, key: str, item: dict[str, str]) -> Any:
    """DVC's ${key} and ${item.x}, put in: DVC interpolates no lists, so a template cannot watch two different sets."""
    if isinstance(value, dict):
        return {_filled(name, key, item): _filled(part, key, item) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, key, item) for part in value]
    if isinstance(value, str):
        value = value.replace("${key}", key)
        for field, text in item.items():
            value = value.replace(f"${{item.{field}}}", text)
    return value


def _at_top(stage: dict[str, Any], name: str, changed: set[str]) -> dict[str, Any]:
    """The stage, run from the top with the experiment named, watching what the experiment changes."""
    watched = [param for param in stage["params"] if isinstance(param, str) and param in changed]
    params = [*stage["params"], *([{f"experiments/{name}/params.yaml": watched}] if watched else [])]
    command = f"{stage['cmd']} --experiment experiments/{name}"
    return {"wdir": "../..", **stage, "cmd": command, "params": params}


def _fetch(item: str, name: str, *, overlaid: bool) -> dict[str, Any]:
    """The stage of one download, which the experiment's params.yaml names, or the base's."""
    watched = f"downloads.{item}"
    return {
        "wdir": "../..",
        "cmd": f"python -m attndistill fetch --name {item} --experiment experiments/{name}",
        "params": [{f"experiments/{name}/params.yaml": [watched]} if overlaid else watched],
        "outs": [f"outputs/{name}/downloads/{item}"],
    }


def _outside(experiment: Experiment) -> dict[str, list[str]]:
    """Stage -> files that no stage of the default makes: dependencies like any other.

    They are the teacher's checkpoint, class and label lists, and images that a stage fetched. Images elsewhere are left
    out: DVC would read every byte of an ImageNet whenever it is asked what must run.
    """
    config = experiment.config("", {})
    images = config.data.set.options()
    fetched = str(images.get("root") or "").startswith(f"outputs/{experiment.name}/")
    labels = config.probe.labels.list_file
    of_rows = [experiment.config(row, {}).probe.labels.list_file for row in experiment.rows]
    found = {
        "prepare": [images["root"] if fetched else None, images.get("class_list")],
        "pretrain_teacher": [getattr(config.teacher.source, "path", None)],
        "probe_pretrained_teacher": [labels],
        "probe_pretrained_scratch": [labels],
        "probe": of_rows,
    }
    return {stage: sorted({path for path in paths if path}) for stage, paths in found.items()}

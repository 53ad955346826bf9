"""The files of the drivers, derived from the declared stages: dvc.yaml, MLproject, and the README's table.

`attndistill drivers --experiment FOLDER` writes an experiment's; a test holds the committed files against it.

DVC watches code as `code.<stage>` in attndistill.lock, a digest of what a stage computes with (stages/code.py). In a
working copy of this package a DVC stage of its own, `code`, writes that file whenever a source file has changed; so
reworded code makes nothing stale, and dvc.lock, which DVC reads and writes whole at every stage, names each source file
once. A project anywhere else is run with the package that is installed, whose files DVC cannot watch: `attndistill
drivers` writes attndistill.lock anew after an upgrade, with a digest of each section's defaults too.
"""

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attndistill import __version__
from attndistill.config import read_yaml
from attndistill.config.transfer import TRANSFER, preset
from attndistill.core.artifacts import digest_of, write_text
from attndistill.experiments import DEFAULTS, ROWS, SETTINGS, Experiment, open_experiment
from attndistill.report.build import curve_columns
from attndistill.stages import STAGES, Item, Stage
from attndistill.stages.code import CODE, ROOT, source_digest, watched_files
from attndistill.stages.declaration import ASKED
from attndistill.stages.layout import MODELS

_HEADER = """\
# Derived from the declared stages (attndistill/stages) by `attndistill drivers`; not edited by hand.
# Each stage depends on the code that it computes with (a digest in attndistill.lock, which the first stage writes), on
# the settings that it reads, on its inputs and on files from outside.
"""
_PROJECT_HEADER = """\
# Derived from the declared stages (attndistill/stages) by `attndistill drivers`; not edited by hand.
# Entry points call the same commands as dvc.yaml and people do. params.yaml alone holds settings: any other one is
# given as -P section.key=value, which MLflow appends as --section.key value.
#   mlflow run . -e distill -P row=attndistill -P distill.recipe.epochs=2 --env-manager local
"""

_LOCK_HEADER = """\
# Written by `attndistill drivers`, for DVC to watch in place of the installed package. Run it after an upgrade: the
# stages whose code or defaults changed run again.
"""
_CODE_HEADER = """\
# Written by DVC's stage `code`: digests of what each stage computes with, words left out. The others depend on theirs.
"""

LOCK = "attndistill.lock"
ABSENT = object()
# what each file of curves shows, and in what
_PLOTS = (("training loss", "loss"), ("logistic top-1 over epochs", "percent"))


def write_drivers(folder: Path) -> list[Path]:
    """Write an experiment's dvc.yaml and MLproject, and the README's table where its README has one.

    Raises:
        ValueError: settings or a row that no stage would run with.
    """
    experiment = open_experiment(folder)
    texts = {"dvc.yaml": dvc_file(experiment), "MLproject": mlproject(experiment)}
    if not in_working_copy(experiment):
        texts[LOCK] = lock_file(experiment)
    readme = experiment.folder / "README.md"
    if readme.exists() and _TABLE.search(text := readme.read_text(encoding="utf-8")):
        texts["README.md"] = with_table(text)
    for name, text in texts.items():
        if not (experiment.folder / name).exists() or (experiment.folder / name).read_text(encoding="utf-8") != text:
            write_text(experiment.folder / name, text)
    return [experiment.folder / name for name in texts]


def dvc_file(experiment: Experiment) -> str:
    """The text of an experiment's dvc.yaml.

    A stage over rows is one template, so that a row that is added runs without deriving anew; other items have a stage
    of their own, since they read different sections.
    """
    config = experiment.config("", {})
    experiment.check_rows({})
    stages: dict[str, Any] = {CODE: _code_stage(experiment)} if in_working_copy(experiment) else {}
    for stage in STAGES.values():
        for item in experiment.items(stage, config, rows=()):
            stages[dvc_name(stage, item)] = _dvc_stage(experiment, stage, item, config)
        if stage.over in ("row", "model"):
            for data in ("", *config.datasets) if stage.judges else ("",):
                each = Item("${key}", data)
                template = _dvc_stage(experiment, stage, each, config)
                stages[dvc_name(stage, each).partition("@")[0]] = {"foreach": "${rows}", "do": template}
    followed = [name for name in experiment.rows if experiment.config(name, {}).distill.probe_every]
    columns = curve_columns(experiment.file, MODELS, followed)
    plots = [
        {title: {"x": "epoch", "y": {f"results/{file}": columns}, "title": title, "x_label": "epoch", "y_label": unit}}
        for (file, columns), (title, unit) in zip(columns.items(), _PLOTS, strict=True)
    ]
    whole = {"vars": [ROWS], "stages": stages, "metrics": ["results/metrics.json"], "plots": plots}
    return _HEADER + _yaml(whole)


def dvc_name(stage: Stage, item: Item) -> str:
    """What DVC calls the stage of an item: one of a template over rows, or one of its own."""
    if stage.over in ("row", "model") and item.name not in MODELS:
        return f"{'_'.join(filter(None, (stage.name, item.data)))}@{item.name}"
    return "_".join(filter(None, (stage.name, item.name, item.data)))


def _dvc_stage(experiment: Experiment, stage: Stage, item: Item, config: Any) -> dict[str, Any]:
    layout = experiment.layout
    outside = _watched_outside(experiment, stage, item, config)
    inputs = [path.relative_to(layout.folder).as_posix() for path in stage.inputs(layout, item)]
    outs: list[Any] = []
    for path in stage.outputs(layout, item):
        name = path.relative_to(layout.folder).as_posix()
        # what persists DVC takes from no cache of runs: the report, the last of all, orders dvc.lock (lock_order.py)
        kept = {"cache": False, **({"persist": True} if stage.report else {})}
        outs.append({name: kept} if path.is_relative_to(layout.results) else name)
    found: dict[str, Any] = {"cmd": _command(experiment, stage, item), "params": _params(experiment, stage, item)}
    deps = [*inputs, *outside]
    return {**found, **({"deps": deps} if deps else {}), "outs": outs}


def _code_stage(experiment: Experiment) -> dict[str, Any]:
    """The stage that writes attndistill.lock."""
    files = {"attndistill/config/transfer.py", *(file for one in STAGES.values() for file in watched_files(one.module))}
    return {
        "cmd": _with_code(experiment, f"python -m attndistill {CODE}"),
        "deps": [f"{_code(experiment)}{file}" for file in sorted(files)],
        "outs": [{LOCK: {"cache": False}}],
    }


def _params(experiment: Experiment, stage: Stage, item: Item) -> list[Any]:
    """The settings that a stage reads: of the defaults, of the experiment's own params.yaml, of its row."""
    sections = list(stage.sections(item))
    own = experiment.layers[-1]  # as they are written
    sections += [f"datasets.{item.data}.preset"] if _from_preset(experiment, item) else []
    sections = [name for name in sections if not name.startswith("datasets.") or setting_at(own, name) is not ABSENT]
    code = [f"code.{stage.name}", *(["transfer"] if _from_preset(experiment, item) else [])]
    defaults = f"{_code(experiment)}{SETTINGS}"
    watched: list[Any]
    if defaults == SETTINGS:
        watched = [*sections, {LOCK: code}]
    else:
        changed = {section: value for section in sections if (value := setting_at(own, section)) is not ABSENT}
        # of a list or a number that the experiment sets itself, the default says nothing
        shared = [section for section in sections if isinstance(changed.get(section, {}), Mapping)]
        shared = [section for section in shared if not section.startswith(("downloads.", "datasets.", "exports."))]
        if in_working_copy(experiment):
            watched = [{LOCK: code}, *([{defaults: shared}] if shared else [])]
        else:
            tops = dict.fromkeys(section.partition(".")[0] for section in shared)
            watched = [{LOCK: [*code, *(f"defaults.{top}" for top in tops)]}]
        watched += [{SETTINGS: list(changed)}] if changed else []
    if stage.report:
        watched.append({ROWS: None})
    elif item.name == "${key}":
        watched.append({ROWS: ["rows.${key}.set"]})
    elif stage.over != "download" and item.name in experiment.rows:
        watched.append({ROWS: [f"rows.{item.name}.set"]})
    return watched


def _from_preset(experiment: Experiment, item: Item) -> bool:
    """Whether an item's data set is one of the transfer sets by name."""
    key = f"datasets.{item.data}.preset"
    return bool(item.data) and setting_at(experiment.layers[-1], key) is not ABSENT


def setting_at(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in nested settings; `ABSENT` where there is none."""
    node: Any = settings
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return ABSENT
        node = node[part]
    return node


def _watched_outside(experiment: Experiment, stage: Stage, item: Item, config: Any) -> list[str]:
    """Files that no stage of ours makes; of a template, those of every row. Trees of images only where one is fetched:
    DVC would read every byte of an ImageNet whenever it is asked what must run."""
    names = tuple(experiment.rows) if item.name == "${key}" else (item.name,)
    found = [one for name in names for one in stage.outside(experiment.config(name, {}), Item(name, item.data))]
    paths = [one.path for one in found if one.watched or one.path.startswith("outputs/")]
    return sorted(dict.fromkeys(paths))


def lock_file(experiment: Experiment) -> str:
    """The text of attndistill.lock: digests of each stage's code and, beside an installed package, of the defaults."""
    code = {stage.name: source_digest(stage.module) for stage in STAGES.values()}
    known = {"code": code, "transfer": digest_of({name: preset(name) for name in TRANSFER})}
    if in_working_copy(experiment):
        return _CODE_HEADER + _yaml(known)
    defaults = {name: digest_of(value) for name, value in read_yaml(DEFAULTS).items()}
    return _LOCK_HEADER + _yaml({"version": __version__, **known, "defaults": defaults})


def write_lock(experiment: Experiment) -> None:
    """Write an experiment's attndistill.lock."""
    write_text(experiment.folder / LOCK, lock_file(experiment))


def stale_lock(experiment: Experiment, stage: Stage) -> bool:
    """Whether attndistill.lock is of other code than this stage runs with, so that DVC cannot know of it."""
    path = experiment.folder / LOCK
    renewed = in_working_copy(experiment) and not os.environ.get("DVC_STAGE")  # by the next `dvc repro`
    if renewed or not os.path.lexists(path):
        return False
    known = read_yaml(path).get("code")
    return not isinstance(known, Mapping) or known.get(stage.name) != source_digest(stage.module)


def in_working_copy(experiment: Experiment) -> bool:
    """Whether the experiment lies in a working copy of this package, and not beside an installed one."""
    return experiment.folder.is_relative_to(ROOT)


def _code(experiment: Experiment) -> str:
    """The way from an experiment's folder to the package's root: "" at the top of the repository, "../../" below."""
    way = os.path.relpath(ROOT, experiment.folder)
    return "" if way == "." else f"{way}/"


def _command(experiment: Experiment, stage: Stage, item: Item) -> str:
    """The command of a stage, run in the experiment's folder with the code of the same working copy."""
    words = ["python -m attndistill", stage.name, *([f"--{stage.option} {item.name}"] if stage.option else [])]
    return _with_code(experiment, " ".join([*words, *([f"--data {item.data}"] if item.data else [])]))


def _with_code(experiment: Experiment, command: str) -> str:
    way = _code(experiment) if in_working_copy(experiment) else ""
    return f"PYTHONPATH={way.rstrip('/')} {command}" if way else command


def mlproject(experiment: Experiment) -> str:
    """The text of an experiment's MLproject: an entry point a stage, the whole pipeline, studies."""
    usual = "attndistill" if "attndistill" in experiment.rows else next(iter(experiment.rows))
    defaults = {"row": usual, "model": usual}
    entries: dict[str, Any] = {}
    for stage in STAGES.values():
        parameters: dict[str, Any] = {}
        words = ["python -m attndistill", stage.name]
        if stage.option:
            default = "teacher" if stage.over == "pretrained" else defaults.get(stage.option)
            kind: Any = "string" if default is None else {"type": "string", "default": default}
            parameters[stage.option] = kind
            words.append(f"--{stage.option} {{{stage.option}}}")
        if stage.judges:
            parameters["data"] = {"type": "string", "default": ""}
            words.append("--data {data}")
        parameter = {"parameters": parameters} if parameters else {}
        entries[stage.name] = {**parameter, "command": _with_code(experiment, " ".join(words))}
    from ruamel.yaml.scalarstring import SingleQuotedScalarString

    on = {SingleQuotedScalarString("on"): {"type": "string", "default": ""}}  # bare, it is true to MLflow's YAML 1.1
    entries["pipeline"] = {
        "parameters": on,
        "command": _with_code(experiment, "python -m attndistill pipeline --on {on}"),
    }
    entries["study"] = {
        "parameters": {
            "file": {"type": "string", "default": "search/default.yaml"},
            "workers": {"type": "float", "default": 1},
            "storage": {"type": "string", "default": ""},
            **on,
        },
        "command": _with_code(
            experiment, "python -m attndistill study {file} -j {workers} --storage {storage} --on {on}"
        ),
    }
    name = "attndistill" if not _code(experiment) else f"attndistill-{experiment.name}"
    environment = {"python_env": f"{_code(experiment)}python_env.yaml"} if in_working_copy(experiment) else {}
    return _PROJECT_HEADER + _yaml({"name": name, **environment, "entry_points": entries})


_TABLE = re.compile(r"(?<=\n)\| Stage \| Does \| Command \|\n(?:\|.*\n)+")


def with_table(readme: str) -> str:
    """A README with its table of stages as the declarations have it."""
    lines = ["| Stage | Does | Command |", "|---|---|---|"]
    for stage in STAGES.values():
        example = dict.fromkeys(("row", "model", *ASKED), "attndistill") | {
            "pretrained": "teacher",
            "download": "dino",
        }
        option = f" --{stage.option} {example[stage.over]}" if stage.option else ""
        lines.append(f"| {stage.name} | {stage.summary} | `attndistill {stage.name}{option}` |")
    return _TABLE.sub("\n".join(lines).replace("\\", r"\\") + "\n", readme)


def _yaml(value: Any) -> str:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump(value, text)
    return text.getvalue()

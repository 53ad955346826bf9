"""`attndistill verify`: whether every committed figure is what its lock says, and the lock what code and settings say.

Nothing is trained. The chain that is held, link by link: result file - dvc.lock - declared stages - source files and
settings of today - inputs and outputs where they are (working tree, DVC's cache) - what the files say of themselves.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from attndistill.config.layers import flat
from attndistill.core.plain_yaml import BY_DVC, plain_yaml, read_yaml
from attndistill.core.progress import say
from attndistill.core.words import shown
from attndistill.experiments import ROWS, Experiment, open_experiment
from attndistill.reproduction.cache import Cache, caches_of
from attndistill.reproduction.locks import Lock, lock_in
from attndistill.stages.code import same_code
from attndistill.tracking.history import History
from attndistill.tracking.inputs import md5_of

_OTHERS = "results/benchmarks/"  # `make bench` times the code; what it writes is no result of an experiment


def verify(folder: Path | None) -> int:
    """Check one experiment, or every one of the project; reports each fault in a line.

    Args:
        folder: of the experiment; None: all that have results or a lock.

    Returns:
        1 where there is a fault.
    """
    places = [folder] if folder is not None else _experiments(Path.cwd())
    faults = 0
    for place in places:
        experiment = open_experiment(place)
        lock = experiment.folder / "dvc.lock"
        locked = lock_in(lock) if lock.exists() else None
        found = sorted(set(faults_of(experiment, locked)))
        for fault in found:
            say(shown(f"{experiment.name}: {fault}", 1000))
        if locked is not None and not found:
            kept = sum(out.startswith("results/") for stage in locked.stages.values() for out in stage.outs)
            what = f"{kept} results of {len(locked.stages)} stages"
            say(f"{experiment.name}: {what} are as dvc.lock, code and settings have them")
        faults += len(found)
    if faults:
        say(f"{faults} fault{'s' if faults > 1 else ''}")
    return int(faults > 0)


def _experiments(here: Path) -> list[Path]:
    candidates = [here, *sorted(path for path in (here / "experiments").glob("*") if path.is_dir())]
    found = [path for path in candidates if (path / ROWS).is_file() and ((path / "dvc.lock").exists() or _kept(path))]
    if not found:
        raise ValueError(f"{here} has no experiment with a dvc.lock: run this at the top of the project")
    return found


def faults_of(experiment: Experiment, lock: Lock | None) -> Iterator[str]:
    """Each fault of an experiment, as a line."""
    folder = experiment.folder
    if lock is None:
        yield "there are results, but no dvc.lock: nothing says what made them; run `dvc repro`"
        return
    cached, settings = caches_of(folder), dict[str, Any]()
    yield from _undeclared(experiment, lock)
    for stage in lock.stages.values():
        for path, md5 in lock.code(stage).items():
            yield from faults_of_code(folder, path, md5)
        for file, keys in stage.params.items():
            if file not in settings:
                settings[file] = read_yaml(folder / file) if (folder / file).is_file() else {}
            yield from setting_faults(stage.name, file, keys, settings[file])
        for path, md5 in lock.inputs(stage).items():
            made = lock.maker(path)
            if made is not None and made.outs.get(path, md5) != md5:
                yield f"{stage.name}: {path} is not the one that {made.name} made: run `dvc repro {stage.name}`"
        for path, md5 in stage.outs.items():
            yield from _output_fault(folder, path, md5, cached)
    for path in _kept(folder):
        if lock.maker(path) is None and not path.startswith(_OTHERS):
            yield f"{path} is kept by git, but no stage of dvc.lock made it"
    yield from _contents_faults(experiment)


def _undeclared(experiment: Experiment, lock: Lock) -> Iterator[str]:
    """Stages that the lock lacks, has too many, or has with another command, other code or other settings."""
    from attndistill.drivers import dvc_file

    text = dvc_file(experiment)
    written = experiment.folder / "dvc.yaml"
    if not written.exists() or written.read_text(encoding="utf-8") != text:
        yield "dvc.yaml is not as the stages declare it: run `attndistill drivers`"
    declared = dict(_resolved(experiment, text))
    for name in lock.stages.keys() - declared.keys():
        yield f"dvc.lock has a stage {name} that nobody declares: take its lines out"
    for name, entry in declared.items():
        if name not in lock.stages:
            yield f"dvc.lock lacks stage {name}: run `dvc repro {name}`"
            continue
        stage = lock.stages[name]
        outs = {next(iter(out)) if isinstance(out, dict) else str(out) for out in entry["outs"]}
        for what, given, wanted in (
            ("reads", set(stage.deps), set(entry["deps"])),
            ("makes", set(stage.outs), outs),
            ("has the settings", _keys(stage.params), _wanted_keys(entry["params"])),
        ):
            if given != wanted:
                more = ", ".join([*(f"+{path}" for path in wanted - given), *(f"-{path}" for path in given - wanted)])
                yield f"{name} {what} other than dvc.lock says: {shown(more)}; run `dvc repro {name}`"
        if " ".join(stage.command.split()) != " ".join(entry["cmd"].split()):
            yield f"{name}: dvc.lock has the command {stage.command!r}, declared is {entry['cmd']!r}"


def _resolved(experiment: Experiment, text: str) -> Iterator[tuple[str, Any]]:
    """Each declared stage with its templates filled in, as DVC names it."""
    for name, entry in plain_yaml(text, "dvc.yaml", BY_DVC)["stages"].items():
        if "do" not in entry:
            yield name, {"deps": [], "params": [], **entry}
            continue
        for row in experiment.rows:
            filled = json.loads(json.dumps(entry["do"]).replace("${key}", row))
            yield f"{name}@{row}", {"deps": [], "params": [], **filled}


def _keys(params: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {f"{file}:{key}" for file, keys in params.items() for key in (keys if file != ROWS else _rows_keys(keys))}


def _rows_keys(keys: Mapping[str, Any]) -> list[str]:
    """Of a rows file that is watched as a whole, the lock has every section."""
    return [*keys] if all(key.startswith("rows.") for key in keys) else [""]


def _wanted_keys(params: Any) -> set[str]:
    found: set[str] = set()
    for entry in params:
        for file, keys in entry.items() if isinstance(entry, dict) else [("params.yaml", [entry])]:
            found |= {f"{file}:{key}" for key in (keys or [""])}
    return found


def faults_of_code(folder: Path, path: str, md5: str) -> Iterator[str]:
    """A dependency that no stage makes, against the lock. Reworded code is the same code."""
    place = (folder / path).resolve()
    found = _md5(place, folder)
    if found == md5:
        return
    if found == "absent":
        if path.endswith(".py"):
            yield f"{path} is gone, and dvc.lock names it"
        return  # what comes from outside need not be here
    then = _then(folder, path, md5) if path.endswith(".py") else None
    if then is not None and same_code(then.decode(), place.read_text(encoding="utf-8")):
        return
    known = "" if then is not None or not path.endswith(".py") else ", which is in no commit"
    yield f"{path} is not what dvc.lock names ({md5}{known}): run `dvc repro`"


def setting_faults(stage: str, file: str, keys: Mapping[str, Any], today: Mapping[str, Any]) -> Iterator[str]:
    """Settings that a file has other than the lock: of a section, the first that differs and how many more do."""
    from attndistill.drivers import ABSENT, setting_at

    for key, value in keys.items():
        found = setting_at(today, key)
        if found == value:
            continue
        sides = [{} if side is ABSENT else {key: side} for side in (found, value)]
        now, then = map(flat, sides)
        apart = [name for name in {**now, **then} if now.get(name, ABSENT) != then.get(name, ABSENT)]
        if not apart:  # an empty section, which has no leaves
            (now, then), apart = sides, [key]
        has, had = (shown(side[apart[0]]) if apart[0] in side else "none" for side in (now, then))
        more = f" (and {len(apart) - 1} more)" if len(apart) > 1 else ""
        yield f"{stage}: {file}: {apart[0]} is {has}, dvc.lock has {had}{more}: run `dvc repro {stage}`"


def _output_fault(folder: Path, path: str, md5: str, cached: Cache) -> Iterator[str]:
    found = _md5(folder / path, folder)
    if found != md5 and (found != "absent" or Path(path).parts[0] == "results"):
        yield f"{path} is {found}, dvc.lock has {md5}: run `dvc checkout`, or the stage that makes it"
    if fault := cached.fault(md5):
        yield f"{path}: {fault}"


def _kept(folder: Path) -> list[str]:
    """The result files that git keeps."""
    done = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "-z", "results"], capture_output=True, text=True, check=False
    )
    return [name for name in done.stdout.split("\0") if name]


def _contents_faults(experiment: Experiment) -> Iterator[str]:
    """Prepared data and targets that are here, against what their own manifests say."""
    layout = experiment.layout
    for directory in (layout.data, *sorted((layout.outputs / "datasets").glob("*"))):
        if (directory / "manifest.json").exists():
            from attndistill.stages.soundness import whole_data

            try:
                whole_data(directory)
            except ValueError as error:
                yield str(error)
    manifest = layout.targets / "manifest.json"
    if manifest.exists():
        from attndistill.core.artifacts import read_json

        try:
            if read_json(manifest).get("cached", True):
                from attndistill.stages.soundness import whole_targets

                whole_targets(layout.targets)
        except ValueError as error:
            yield str(error)


@cache
def _md5(place: Path, folder: Path) -> str:
    return md5_of(place, folder)


@cache
def _then(folder: Path, path: str, md5: str) -> bytes | None:
    history = History(folder)
    return history.bytes_of(history.path_of(folder / path), md5)

"""Lineage: what led to a run, written as files so that it is known even if no tracking server ever hears of it.

    code.json         commit, whether the working tree differs from it, how whole the patch is
    patch.diff        the difference, untracked code included
    inputs.json       md5 of every input by dvc.lock and by the workspace; digests that their accounts state
    outputs.json      md5 of every output, of a run that ended well
    dvc.lock          as it was, if one lists what the run reads or makes
    environment.json  interpreter, platform, processors; requirements.txt: every installed distribution
    config.json       the resolved configuration
    command.json      what to type again and where, and the variables by which DVC was in the game or sums are ordered

A reader would get wrong: the patch is taken through a private index and a private object store, because `git add` in
the user's own would change what the user is about to commit; DVC's outs and dvc.lock are left out of it, because they
are results, and every stage of a `dvc repro` after the first would otherwise look dirty.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from attndistill.core.artifacts import read_json, write_json, write_text
from attndistill.core.secrets import hidden
from attndistill.core.words import shown
from attndistill.tracking.git import code_state
from attndistill.tracking.inputs import listed_outs, locks, made_outputs, own_lock, verified_inputs
from attndistill.tracking.spool import Description

# variables by which DVC is in the game, and those by which sums are ordered
DVC = ("DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME")
SUMS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED")


def capture_code(told: Description, folder: Path) -> None:
    """Write code.json and patch.diff for the repository around the root: quick, and due before anyone edits."""
    root = told.tree
    books = [os.path.relpath(lock, root) for lock in locks(root, told.experiment)]
    state, patch = code_state(root, results=[*listed_outs(root, told.experiment), *books])
    if patch:
        (folder / "patch.diff").write_bytes(patch)
    write_json(folder / "code.json", state)


def capture_surroundings(told: Description, folder: Path) -> None:
    """Write everything else. Reads every byte of the inputs: not for the training process."""
    root = told.tree
    write_json(folder / "config.json", told.config)
    variables = {key: os.environ[key] for key in (*DVC, *SUMS) if key in os.environ}
    place = os.path.relpath(told.folder or told.root, root.resolve())
    write_json(folder / "command.json", {"argv": told.argv, "folder": place, "environment": variables})
    capture_machine(folder)
    lock = own_lock(root, told.experiment, [*told.inputs, *told.outputs])
    if lock is not None:
        write_text(folder / "dvc.lock", hidden(lock.read_text(encoding="utf-8")))
    inputs = verified_inputs(root, told.experiment, told.inputs)
    # last: its presence says that the rest is whole
    write_json(folder / "inputs.json", inputs | {"accounts": stated_digests(root, told.inputs, told.accounts)})


def capture_machine(folder: Path) -> None:
    """Write environment.json and requirements.txt, unless they are there: a worker on another machine wrote its own."""
    if (folder / "environment.json").exists():
        return
    distributions = installed_distributions()
    write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in distributions))
    write_json(
        folder / "environment.json",
        {
            "digest": hashlib.sha256("\n".join(distributions).encode()).hexdigest(),
            "python": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
            "processor": processor(),
            "cpu_count": os.cpu_count(),
            "torch": _version("torch"),
        },
    )


def capture_outputs(told: Description, folder: Path) -> None:
    """Write outputs.json, right after a run that ended well: later, the files may be another run's."""
    write_json(folder / "outputs.json", made_outputs(told.tree, told.outputs))


def outputs_of(folder: Path) -> dict[str, str]:
    """The md5 of each output, by its path; of a run that was not followed to its end, none."""
    file = folder / "outputs.json"
    return dict(read_json(file)) if file.exists() else {}


def is_captured(folder: Path) -> bool:
    """Whether the surroundings are already on disk (they must not be read again later, when they may have changed)."""
    return (folder / "inputs.json").exists()


def stated_digests(root: Path, inputs: Sequence[str], accounts: Sequence[str]) -> dict[str, str]:
    """Digests that JSON files state of what came from elsewhere: "path:key" -> digest.

    The manifest of prepared images says which images they were, the account of a released teacher which file.
    """
    files = [*(root / path / "manifest.json" for path in inputs), *(root / path for path in accounts)]
    found: dict[str, str] = {}
    for file in files:
        try:
            stated = dict(_digests(read_json(file))) if file.is_file() else {}
        except ValueError:
            continue  # the stage that reads it will say so
        found |= {f"{os.path.relpath(file, root)}:{key}": value for key, value in stated.items()}
    return found


def _digests(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _digests(entry, f"{prefix}{key}.")
        elif isinstance(entry, str) and ("sha256" in key or "digest" in key):
            yield f"{prefix}{key}", entry


def tags_of(folder: Path) -> dict[str, str]:
    """The lineage in a few words, for a list of runs. Raises ValueError for a file that is no lineage's."""
    try:
        return _tags(folder)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the lineage in {folder} is damaged ({type(error).__name__}: {shown(error)})") from None


def _tags(folder: Path) -> dict[str, str]:
    tags: dict[str, str] = {}
    for file, keys in {
        "code.json": ("commit", "dirty", "patch"),
        "environment.json": ("python", "platform", "processor", "cpu_count", "torch"),
        "inputs.json": ("inputs_verified",),
    }.items():
        found = read_json(folder / file) if (folder / file).exists() else {}
        tags |= {f"lineage.{key}": str(found[key]) for key in keys if key in found}
        if file == "environment.json" and found:
            tags["lineage.environment"] = found["digest"]
        if file == "inputs.json":
            tags.setdefault("lineage.inputs_verified", "unknown: the recording was cut off before they were read")
            tags |= {f"lineage.input.{path}": entry["workspace"] for path, entry in found.get("inputs", {}).items()}
            tags |= {f"lineage.account.{place}": digest for place, digest in found.get("accounts", {}).items()}
        if file == "code.json" and not found:
            tags["lineage.commit"] = "unknown: the recording was cut off before it was read"
    commit = tags["lineage.commit"]
    return tags | ({} if ":" in commit else {"mlflow.source.git.commit": commit})  # MLflow's column "Version"


@cache
def installed_distributions() -> tuple[str, ...]:
    """`name==version` of everything importable, sorted, each once; a worker of many tasks looks once."""
    import importlib.metadata  # 40 ms and more, which the companion and workers pay

    found = {(item.metadata["Name"] or "?").lower(): item.version for item in importlib.metadata.distributions()}
    return tuple(sorted(f"{name}=={version}" for name, version in found.items()))


def processor() -> str:
    """The processor's model: floating-point sums differ between their kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(filter(None, named), platform.processor() or platform.machine())


def _version(distribution: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"

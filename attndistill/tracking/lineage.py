"""Lineage: what led to a run, written as files so that it is known even if no tracking server ever hears of it.

    code.json         commit, whether the working tree differs from it, how whole the patch is
    patch.diff        the difference, untracked code included
    inputs.json       md5 of every input by dvc.lock and by the workspace
    dvc.lock          as it was
    environment.json  interpreter, platform, processors; requirements.txt: every installed distribution
    config.json       the resolved configuration
    command.json      what to type again, and the variables by which DVC was in the game

A reader would get wrong: the patch is taken through a private index and a private object store, because `git add` in
the user's own would change what the user is about to commit; DVC's outs and dvc.lock are left out of it, because they
are results, and every stage of a `dvc repro` after the first would otherwise look dirty.
"""

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attndistill.core.artifacts import read_json, write_json, write_text
from attndistill.tracking.git import code_state
from attndistill.tracking.inputs import listed_outs, verified_inputs


def capture_code(root: Path, folder: Path) -> None:
    """Write code.json and patch.diff for the repository around `root`. Quick, and due before anyone edits the code."""
    state, patch = code_state(root, results=[*listed_outs(root), "dvc.lock"])
    if patch:
        (folder / "patch.diff").write_bytes(patch)
    write_json(folder / "code.json", state)


def capture_surroundings(root: Path, folder: Path, *, inputs: Sequence[str], config: Any, argv: Sequence[str]) -> None:
    """Write everything else. Reads every byte of the inputs: not for the training process."""
    write_json(folder / "config.json", config)
    variables = {key: os.environ[key] for key in ("DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME") if key in os.environ}
    write_json(folder / "command.json", {"argv": list(argv), "environment": variables})
    distributions = installed_distributions()
    write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in distributions))
    write_json(
        folder / "environment.json",
        {
            "digest": hashlib.sha256("\n".join(distributions).encode()).hexdigest(),
            "python": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "torch": _version("torch"),
        },
    )
    if (root / "dvc.lock").is_file():
        shutil.copyfile(root / "dvc.lock", folder / "dvc.lock")
    # last: its presence says that the rest is whole
    write_json(folder / "inputs.json", verified_inputs(root, inputs))


def is_captured(folder: Path) -> bool:
    """Whether the surroundings are already on disk (they must not be read again later, when they may have changed)."""
    return (folder / "inputs.json").exists()


def tags_of(folder: Path) -> dict[str, str]:
    """The lineage in a few words, for a list of runs."""
    tags: dict[str, str] = {}
    for file, keys in {
        "code.json": ("commit", "dirty", "patch"),
        "environment.json": ("python", "platform", "cpu_count", "torch"),
        "inputs.json": ("inputs_verified",),
    }.items():
        found = read_json(folder / file) if (folder / file).exists() else {}
        tags |= {f"lineage.{key}": str(found[key]) for key in keys if key in found}
        if file == "environment.json" and found:
            tags["lineage.environment"] = found["digest"]
        if file == "inputs.json":
            tags.setdefault("lineage.inputs_verified", "unknown: the recording was cut off before they were read")
            tags |= {f"lineage.input.{path}": entry["workspace"] for path, entry in found.get("inputs", {}).items()}
        if file == "code.json" and not found:
            tags["lineage.commit"] = "unknown: the recording was cut off before it was read"
    return tags


def installed_distributions() -> list[str]:
    """`name==version` of everything importable, sorted, each once."""
    import importlib.metadata  # 40 ms, which only the companion pays

    found = {(item.metadata["Name"] or "?").lower(): item.version for item in importlib.metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items())


def _version(distribution: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"

"""The inputs of a run by DVC's book: the md5 that a dvc.lock states for each, held against the workspace.

The book is the dvc.lock of the run's own experiment (beside its dvc.yaml, whose `wdir` its paths are relative to) and
the one at the top; paths are relative to the project's root here.

Only what dvc.lock lists as an *out* of a stage (or a .dvc file beside the data) says what an input ought to be. What it
lists as a dependency says what the stage read last time, which may well differ from what it reads now.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from attndistill.core.plain_yaml import BY_DVC, read_plain_yaml


def verified_inputs(root: Path, experiment: str, inputs: Sequence[str]) -> dict[str, Any]:
    """The md5 of each input, as listed and as found.

    Returns:
        {"inputs": {path: {"listed": md5 or None, "workspace": md5 or "absent"}}, "inputs_verified": word}; the word is
        "none" (no inputs), "yes", "no: PATH (dvc.lock MD5, workspace MD5)", or "partly: not in dvc.lock: PATH".
    """
    listed = listed_outs(root, experiment)
    owners = dict.fromkeys(_owner(_relative(root, given), listed) for given in inputs)
    found = {owner: {"listed": listed.get(owner), "workspace": md5_of(root / owner, root)} for owner in owners}
    return {"inputs": found, "inputs_verified": _verdict(found)}


def _owner(path: str, listed: Mapping[str, str]) -> str:
    """The out that holds a file: a file inside an out is verified by verifying the out."""
    places = [PurePosixPath(path), *PurePosixPath(path).parents]
    return next((str(place) for place in places if str(place) in listed), path)


def made_outputs(root: Path, outputs: Sequence[str]) -> dict[str, str]:
    """The md5 of each output that is there."""
    found = {_relative(root, given): md5_of(root / given, root) for given in outputs}
    return {path: md5 for path, md5 in found.items() if not md5.startswith(("absent", "unreadable"))}


def _verdict(found: dict[str, dict[str, str | None]]) -> str:
    wrong = [
        f"{path} (dvc.lock {entry['listed']}, workspace {entry['workspace']})"
        for path, entry in found.items()
        if str(entry["workspace"]).startswith(("absent", "unreadable"))
        or (entry["listed"] and entry["listed"] != entry["workspace"])
    ]
    unlisted = [path for path, entry in found.items() if not entry["listed"]]
    if wrong:
        return f"no: {', '.join(wrong)}"
    if unlisted:
        return f"partly: not in dvc.lock: {', '.join(unlisted)}"
    return "yes" if found else "none"


def locks(root: Path, experiment: str) -> list[Path]:
    """The dvc.lock files that may speak of a run: its experiment's own, then the one at the top."""
    places = [root / "experiments" / experiment, root]
    return [place / "dvc.lock" for place in places if (place / "dvc.lock").is_file()]


def own_lock(root: Path, experiment: str, paths: Sequence[str]) -> Path | None:
    """The first of them that lists one of a run's inputs or outputs as an out; another's says nothing of the run."""
    wanted = [_relative(root, path) for path in paths]
    for lock in locks(root, experiment):
        listed = _outs_of(lock, root)
        if any(_owner(path, listed) in listed for path in wanted):
            return lock
    return None


def listed_outs(root: Path, experiment: str) -> dict[str, str]:
    """Path relative to `root` -> md5, for every out in dvc.lock and .dvc files; none of a broken file."""
    found: dict[str, str] = {}
    for folder in (root, root / "experiments" / experiment):
        found |= _outs_of(folder / "dvc.lock", root)
        for file in sorted(folder.glob("*.dvc")):
            if file.is_file():
                found |= _paths(_yaml(file), folder, root)
    return found


def _outs_of(lock: Path, root: Path) -> dict[str, str]:
    written = _entries(_yaml(lock.with_name("dvc.yaml")).get("stages"))
    found: dict[str, str] = {}
    for name, stage in _entries(_yaml(lock).get("stages")).items():
        entry = written.get(name.partition("@")[0]) or {}
        folder = entry.get("wdir") or _entries(entry.get("do")).get("wdir") or "."
        found |= _paths(stage, lock.parent / str(folder), root)
    return found


def _paths(entry: Any, folder: Path, root: Path) -> dict[str, str]:
    outs = entry.get("outs") if isinstance(entry, Mapping) else None
    whole = [out for out in outs if isinstance(out, Mapping)] if isinstance(outs, list) else []
    return {
        _relative(root, folder / str(out["path"])): str(out["md5"]) for out in whole if {"path", "md5"} <= out.keys()
    }


def _entries(value: Any) -> dict[str, Any]:
    return {str(key): entry for key, entry in value.items() if entry} if isinstance(value, Mapping) else {}


def md5_of(path: Path, root: Path) -> str:
    """DVC's md5 of a file, or of a directory (with ".dir"); "absent" or "unreadable: WHY" where there is none."""
    if not path.exists():
        return "absent"
    try:
        return directory_md5(path, root) if path.is_dir() else _file_md5(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def directory_md5(folder: Path, root: Path) -> str:
    """DVC's digest of a directory: md5 of the JSON list of its files' md5 and relative paths, sorted by path.

    What the .dvcignore at `root` names does not count (one further down in the tree is not read).
    """
    ignored = _ignored(root)
    entries = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", ".hg", ".dvc")]
        for name in files:
            file = Path(place) / name
            if ignored(os.path.relpath(file, root)):
                continue
            entries.append({"md5": _file_md5(file), "relpath": file.relative_to(folder).as_posix()})
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _ignored(root: Path) -> Callable[[str], bool]:
    if not (root / ".dvcignore").is_file():
        return lambda path: False
    from pathspec import GitIgnoreSpec  # DVC's own reader of these patterns

    return GitIgnoreSpec.from_lines((root / ".dvcignore").read_text(encoding="utf-8").splitlines()).match_file


def _relative(root: Path, given: str | Path) -> str:
    absolute = os.path.normpath(Path(root).absolute() / given)
    relative = os.path.relpath(absolute, Path(root).absolute())
    return absolute if relative.startswith("..") else PurePosixPath(relative).as_posix()


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = read_plain_yaml(path, BY_DVC)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""The inputs of a run by DVC's book: the md5 that dvc.lock states for each, held against the workspace.

Only what dvc.lock lists as an *out* of a stage (or a .dvc file beside the data) says what an input ought to be. What it
lists as a dependency says what the stage read last time, which may well differ from what it reads now.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any


def verified_inputs(root: Path, inputs: Sequence[str]) -> dict[str, Any]:
    """The md5 of each input, as listed and as found.

    Returns:
        {"inputs": {path: {"listed": md5 or None, "workspace": md5 or "absent"}}, "inputs_verified": word}; the word is
        "none" (no inputs), "yes", "no: PATH (dvc.lock MD5, workspace MD5)", or "partly: not in dvc.lock: PATH".
    """
    listed = listed_outs(root)
    found: dict[str, dict[str, str | None]] = {}
    for given in inputs:
        path = _relative(root, given)
        owner = next(
            (str(place) for place in [PurePosixPath(path), *PurePosixPath(path).parents] if str(place) in listed), path
        )
        if owner not in found:  # a file inside an out is verified by verifying the out
            found[owner] = {"listed": listed.get(owner), "workspace": md5_of(root / owner, root)}
    return {"inputs": found, "inputs_verified": _verdict(found)}


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


def listed_outs(root: Path) -> dict[str, str]:
    """Path relative to `root` -> md5, for every out in dvc.lock and the .dvc files beside it; none of a broken file."""
    stages = (_yaml(root / "dvc.lock").get("stages") or {}).values()
    outs = [out for stage in stages for out in stage.get("outs") or []]
    for file in sorted(root.glob("*.dvc")):
        if file.is_file():
            outs += _yaml(file).get("outs") or []
    return {str(PurePosixPath(out["path"])): str(out["md5"]) for out in outs if "md5" in out}


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


def _relative(root: Path, given: str) -> str:
    absolute = os.path.normpath(Path(root).absolute() / given)
    relative = os.path.relpath(absolute, Path(root).absolute())
    return absolute if relative.startswith("..") else PurePosixPath(relative).as_posix()


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError  # 30 ms that a run without DVC does not pay

    try:
        found = YAML(typ="safe", pure=True).load(path)
    except (OSError, YAMLError):
        return {}
    return found if isinstance(found, dict) else {}

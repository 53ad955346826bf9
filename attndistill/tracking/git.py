"""The state of the code: commit and difference, read without touching the user's index or object store."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attndistill.core.secrets import hidden, says_secret

PATCH_AT_MOST = 10 * 2**20  # bytes
UNTRACKED_AT_MOST = 2**20  # bytes; an untracked file above that is data, not code
SECONDS = 60

_PLAIN_DIFF = (
    "--cached",
    "--binary",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)


def code_state(root: Path, *, results: Sequence[str] = ()) -> tuple[dict[str, object], bytes]:
    """Commit and difference of the repository around `root`; never raises.

    Args:
        results: paths relative to `root` that are results, not code: left out of the difference.

    Returns:
        {"commit", "dirty", "patch", "left_out"} and the patch, which `git apply` at the commit understands if "patch"
        is "whole": without big files, files whose names say secret, and with passwords and tokens hidden. "commit"
        begins with "unknown:" where there is no repository or no git.
    """
    try:
        top = Path(_line(root, "rev-parse", "--show-toplevel"))
        commit = _commit(top)
        with tempfile.TemporaryDirectory(prefix="attndistill-lineage-") as scratch:
            private = _private_store(top, Path(scratch))
            big = _stage_everything(top, private)
            base = commit or _line(top, "hash-object", "-t", "tree", os.devnull)
            changed = _names(
                _git(top, "diff", "--cached", "--name-only", "--no-renames", "-z", base, environment=private)
            )
            secret = sorted(name for name in changed if says_secret(name))
            outs = [os.path.relpath((root / path).resolve(), top.resolve()) for path in results]
            left = [f":(exclude,top,literal){path}" for path in [*outs, *secret] if not path.startswith("..")]
            patch = _git(top, "diff", *_PLAIN_DIFF, base, "--", ".", *left, environment=private)
    except (OSError, subprocess.SubprocessError) as error:
        return {"commit": f"unknown: {_told(error)}", "dirty": "unknown", "patch": "none", "left_out": []}, b""
    whole = "none" if not patch else "whole" if len(patch) <= PATCH_AT_MOST else _cut(len(patch))
    shown = _without_secrets(patch[:PATCH_AT_MOST])
    if shown != patch[:PATCH_AT_MOST]:
        whole += "; passwords or tokens in it are hidden"
    if big:
        whole += f"; {len(big)} untracked files above {UNTRACKED_AT_MOST} bytes left out"
    if secret:
        whole += f"; left out since their names say secret: {', '.join(secret)}"
    state: dict[str, object] = {
        "commit": commit or "none: no commit yet",
        "dirty": "yes" if patch else "no",
        "patch": whole,
        "left_out": [*big, *secret],
    }
    return state, shown


def _without_secrets(patch: bytes) -> bytes:
    """A patch whose lines of text hold no passwords and tokens; those of binary files begin with a letter."""
    lines = patch.decode("latin-1").split("\n")
    shown = (hidden(line, code=True) if line[:1] in ("+", "-", " ") else line for line in lines)
    return "\n".join(shown).encode("latin-1")


def _commit(top: Path) -> str:
    try:
        return _line(top, "rev-parse", "--verify", "--quiet", "HEAD")
    except subprocess.CalledProcessError:
        return ""


def _private_store(top: Path, scratch: Path) -> dict[str, str]:
    """Variables that make git use an index and an object store of ours, beginning as copies of the user's."""
    index = top / _line(top, "rev-parse", "--git-path", "index")
    objects = top / _line(top, "rev-parse", "--git-path", "objects")
    if index.exists():  # with its time: git looks into files that are no older than that
        shutil.copy2(index, scratch / "index")
    (scratch / "objects").mkdir()
    return {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(objects),
    }


def _quoted(path: Path) -> str:
    """As git reads one path of a list: a colon would end it otherwise."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _names(listing: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def _stage_everything(top: Path, private: dict[str, str]) -> list[str]:
    """Put the working tree into the private index; gives the untracked files that were too big to be code."""
    _git(top, "add", "--update", environment=private)
    listing = _git(top, "ls-files", "--others", "--exclude-standard", "-z", environment=private)
    untracked = [name for name in _names(listing) if not name.endswith("/")]
    sizes = {name: os.lstat(top / name).st_size for name in untracked if os.path.lexists(top / name)}
    code = [name for name, size in sizes.items() if size <= UNTRACKED_AT_MOST]
    names = b"".join(os.fsencode(name) + b"\0" for name in code)
    _git(top, "update-index", "--add", "-z", "--stdin", environment=private, given=names)
    return sorted(set(sizes) - set(code))


def _line(folder: Path, *words: str) -> str:
    return os.fsdecode(_git(folder, *words)).rstrip("\n")


def _git(folder: Path, *words: str, environment: dict[str, str] | None = None, given: bytes | None = None) -> bytes:
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.safecrlf=false", *words]
    finished = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(environment or {})},
        input=given if given is not None else b"",
        capture_output=True,
        check=True,
        timeout=SECONDS,
    )
    return finished.stdout


def _cut(size: int) -> str:
    return f"truncated: the first {PATCH_AT_MOST} of {size} bytes"


def _told(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "git is not installed"
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return str(error.stderr.decode(errors="replace").strip().splitlines()[0])
    return f"{type(error).__name__}: {error}"

"""Git, read and never written: what a revision holds, and which commit first named some bytes."""

import hashlib
import os
import subprocess
from pathlib import Path


def plain_environment() -> dict[str, str]:
    """This process's environment without what redirects git, DVC, MLflow and this package."""
    taken = ("GIT_", "DVC_", "MLFLOW_", "ATTNDISTILL_")
    return {key: value for key, value in os.environ.items() if not key.startswith(taken)}


class History:
    """The repository around a folder. Raises ValueError where there is none."""

    def __init__(self, folder: Path) -> None:
        found = self.ask(folder, "rev-parse", "--show-toplevel")
        if found is None:
            raise ValueError(f"{folder} is in no git repository, whose history says what code there was")
        self.top = Path(os.fsdecode(found.rstrip(b"\n")))

    @staticmethod
    def ask(place: Path, *words: str) -> bytes | None:
        """What git answers; None where it refuses."""
        try:
            done = subprocess.run(
                ["git", "-C", str(place), "-c", "core.fsmonitor=false", *words],
                env={**plain_environment(), "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise ValueError("git is not installed") from None
        return done.stdout if done.returncode == 0 else None

    def path_of(self, place: Path) -> str:
        """The path of a file from the top."""
        return place.resolve().relative_to(self.top.resolve()).as_posix()

    def commit(self, revision: str) -> str | None:
        """The commit of a revision; None where there is none."""
        found = self.ask(self.top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        return found.decode().strip() if found else None

    def text(self, revision: str, path: str) -> bytes | None:
        """A file of a revision, by its path from the top."""
        return self.ask(self.top, "show", f"{revision}:{path}")

    def commits_naming(self, word: str, path: str) -> list[str]:
        """Commits that brought a word into a file or took it out, the newest first."""
        return (self.ask(self.top, "log", "--format=%H", f"-S{word}", "--", path) or b"").decode().split()

    def bytes_of(self, path: str, md5: str) -> bytes | None:
        """A file's bytes of that digest, from the commits that touched it."""
        for revision in (self.ask(self.top, "log", "--all", "--format=%H", "--", path) or b"").decode().split():
            blob = self.text(revision, path)
            if blob is not None and hashlib.md5(blob, usedforsecurity=False).hexdigest() == md5:
                return blob
        return None

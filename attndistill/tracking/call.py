"""The `dvc repro` (or `dvc exp run`) that a stage is part of: nobody says so, but it is an ancestor process.

DVC starts each stage as a process of its own, through a shell. The nearest ancestor that is dvc, by its number and
start, is one call of dvc; of a queue, the worker's child that runs one experiment. Without /proc there is none.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from attndistill.core.secrets import hidden_in


class Call(BaseModel):
    """One call of DVC: its runs have one parent.

    Attributes:
        key: the same for every stage of the call, and for no other call.
        name: of the parent's run.
        command: what was typed.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    key: str
    name: str
    command: str


def call_of_dvc() -> Call | None:
    """The call of DVC that this process is part of; None where DVC has not started it."""
    if "DVC_STAGE" not in os.environ:
        return None
    pid = os.getppid()
    while pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
        typed = _words_of_dvc(words)
        if typed is not None:
            experiment = os.environ.get("DVC_EXP_NAME")
            name = (
                f"dvc exp {experiment}"
                if experiment
                else f"dvc {next((word for word in typed if word[:1] != '-'), '')}".strip()
            )
            return Call(key=f"dvc-{_boot()}-{pid}-{process_started(pid)}", name=name, command=" ".join(["dvc", *typed]))
        pid = parent
    return None


def process_started(pid: int) -> str:
    """A word that tells this process from a later one with the same number; empty where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]  # a zombie writes nothing any more
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"  # a system without /proc


def _words_of_dvc(words: list[str]) -> list[str] | None:
    """What follows `dvc` in `dvc ...`, `python .../dvc ...` or `python -m dvc ...`; None for another program."""
    for index, word in enumerate(words[:4]):
        if Path(word).name == "dvc" and (index == 0 or Path(words[0]).name.startswith(("python", "dvc"))):
            return [str(said) for said in hidden_in(words[index + 1 :])]
    return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "0"

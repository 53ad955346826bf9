"""What a worker does: it is imported once, then given one task after another."""

import importlib
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attndistill.core.ownership import locked
from attndistill.core.process import begin_process, collect_from_here
from attndistill.core.progress import watched
from attndistill.engine.board import Board, Entry

_PREDECESSOR = 120.0  # seconds that a task waits for the end of a process that was given up and still lives


@dataclass(frozen=True)
class Job:
    """One task, as it is sent to a worker.

    Attributes:
        name: of the task.
        needs: names of tasks whose results it reads.
        call: "module:function" that does it; returns how it was finished.
        arguments: of the function.
        board: the run's folder.
        devices: of each worker of a machine; "" where there are no GPUs.
        environment: variables of the driver that decide or record something.
        argv: what was typed, without `--on`: what a recording says to type to do it again.
    """

    name: str
    needs: tuple[str, ...]
    call: str
    arguments: Mapping[str, Any]
    board: Path = Path()
    devices: tuple[str, ...] = ("",)
    environment: Mapping[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()


def perform(job: Job, inputs: Sequence[object] = ()) -> str:
    """Do a task in this worker; `inputs` are what was waited for.

    Raises:
        ValueError, FloatingPointError, OSError: as the work did; the board says so too.
    """
    if not (job.board / "plan.json").exists():
        raise ValueError(f"{socket.gethostname()} does not see {job.board}: workers need the project's shared folder")
    os.environ.update(job.environment)
    sys.argv = list(job.argv)
    _pin(job.devices)
    board = Board(job.board)
    with locked(board.lock(job.name), timeout=_PREDECESSOR):
        try:
            with board.running(job.name) as told, watched(told):
                module, _, function = job.call.partition(":")
                how: str = getattr(importlib.import_module(module), function)(**job.arguments)
        except (ValueError, FloatingPointError) as error:  # trying again would end the same way
            _conclude(board, job.name, "failed", " ".join(str(error).split()))
            raise type(error)(str(error)) from None  # some cannot be sent
        finally:
            _free()
        _conclude(board, job.name, "finished", how)
    return how


def get_ready(job: Job) -> None:
    """Import what trains, in a worker that has nothing else to do: its first task would take seconds for it."""
    _pin(job.devices)
    begin_process()
    importlib.import_module("attndistill.engine.seeds")
    collect_from_here()


def _conclude(board: Board, name: str, state: Any, how: str) -> None:
    entry = board.entry(name) or Entry(state="running")
    board.write(name, entry.model_copy(update={"state": state, "how": how, "beat": time.time()}))


def _pin(devices: Sequence[str]) -> None:
    """This worker's share of the GPUs that the machine, or the batch system, lets it see."""
    mine = devices[int(os.environ.get("PARSL_WORKER_RANK", "0")) % len(devices)]
    if not mine or "ATTNDISTILL_PINNED" in os.environ:
        return
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    chosen = [seen[int(place)] if int(place) < len(seen) else place for place in mine.split(",")]
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["ATTNDISTILL_PINNED"] = ",".join(chosen)


def _free() -> None:
    """What one task held, the next one may need."""
    import gc

    gc.collect()
    gc.freeze()  # what has outlived a task is mostly modules: to look through them again takes 0.3 s a task
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()

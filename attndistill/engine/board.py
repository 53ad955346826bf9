"""The board: what every task of a run is doing, as small files that workers write and anybody reads.

    .work/engine/<run>/plan.json        the tasks, and what each waits for; its time of change is the driver's heartbeat
    .work/engine/<run>/tasks/<task>.json   of a task that was begun: state, where, how far, why it failed

`attndistill status` reads them from another terminal, or another machine that sees the project.
"""

import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from attndistill.core.words import shown

BEAT = 2.0  # seconds between two signs of life
_SILENT = 30.0  # seconds without one, after which somebody is taken for gone
_FAILED, _LOST = "failed", "lost"


class Entry(BaseModel):
    """A task's file.

    Attributes:
        state: of the task.
        how: it was finished: "done", "kept" from before, "unchanged", or why it failed.
        place: the machine, the process and its GPUs.
        since: when this attempt began.
        beat: when it was last heard of.
        unit: of what is counted.
        first: where this attempt began to count.
        done: so far.
        total: in all.
        attempt: counted from 1.
    """

    model_config = ConfigDict(frozen=True)

    state: Literal["running", "finished", "failed"]
    how: str = ""
    place: str = ""
    since: float = 0.0
    beat: float = 0.0
    unit: str = ""
    first: int = 0
    done: int = 0
    total: int = 0
    attempt: int = 1


class Plan(BaseModel):
    """What a driver set out to do.

    Attributes:
        title: of the run.
        place: the driver's machine and process.
        settled: tasks that were up to date.
        needs: task -> those it waits for, in the order in which they are begun.
    """

    model_config = ConfigDict(frozen=True)

    title: str
    place: str
    settled: int
    needs: dict[str, list[str]]


class Board:
    """The files of one run, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, task: str) -> Path:
        """Where a task's state lies."""
        return self.folder / "tasks" / f"{re.sub('[^A-Za-z0-9_@=-]', '.', task)}.json"

    def lock(self, task: str) -> Path:
        """Held by the process that works on a task: one that was given up may still live on another machine."""
        return self.folder / "locks" / f"{self.file(task).stem}.lock"

    def begin(self, plan: Plan) -> None:
        """A new run: what an earlier one has left is forgotten."""
        for name in ("tasks", "locks"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for path in (self.folder / "tasks").iterdir():
            path.unlink(missing_ok=True)
        _write(self.folder / "plan.json", plan)

    def beat(self) -> None:
        """The driver is there."""
        with suppress(OSError):
            os.utime(self.folder / "plan.json")

    def plan(self) -> Plan:
        """Raises ValueError where there is none, or a damaged one."""
        try:
            return Plan.model_validate_json((self.folder / "plan.json").read_bytes())
        except (OSError, ValidationError):
            raise ValueError(f"{shown(self.folder)} holds no readable plan") from None

    def driven(self) -> bool:
        """Whether the driver was heard of a moment ago."""
        return time.time() - (self.folder / "plan.json").stat().st_mtime < _SILENT

    def entry(self, task: str) -> Entry | None:
        """What is known of a task; None before it is begun."""
        try:
            return Entry.model_validate_json(self.file(task).read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, task: str, entry: Entry) -> None:
        """Replace what is known of a task."""
        _write(self.file(task), entry)

    @contextmanager
    def running(self, task: str) -> Iterator[Callable[[str, int, int], None]]:
        """Say that a task is worked on for the length of a block; yields a function of (unit, done, total).

        A thread writes it down every two seconds, whatever the work is busy with; it ends a process whose parent is
        gone, so that nobody goes on unseen.
        """
        before, ended, parent = self.entry(task), threading.Event(), os.getppid()
        attempt = before.attempt + 1 if before and before.state == "running" else 1
        entry = [Entry(state="running", place=whereabouts(), since=time.time(), attempt=attempt)]

        def told(unit: str, done: int, total: int) -> None:
            first = entry[0].first if entry[0].unit == unit and entry[0].total == total else done
            entry[0] = entry[0].model_copy(update={"unit": unit, "done": done, "total": total, "first": first})

        def tell() -> None:
            with suppress(OSError):  # a full disk ends no training
                self.write(task, entry[0].model_copy(update={"beat": time.time()}))

        def go_on_telling() -> None:
            while not ended.wait(BEAT):
                if os.getppid() != parent:
                    os._exit(1)
                tell()

        tell()
        thread = threading.Thread(target=go_on_telling, daemon=True)
        thread.start()
        try:
            yield told
        finally:
            ended.set()
            thread.join()
            tell()

    def line(self, task: str) -> str:
        """For people: what is known of a task."""
        entry = self.entry(task)
        return _line(task, _state(entry), entry)

    def lines(self, *, every: bool) -> list[str]:
        """For people: a summary, then what runs, failed and, if `every` task is asked for, waits and is finished."""
        plan = self.plan()
        entries = {task: self.entry(task) for task in plan.needs}
        states = {task: _state(entry) for task, entry in entries.items()}
        counts = Counter(states.values())
        said = [f"{counts['finished']} of {len(entries)} tasks finished"]
        said += [f"{counts[state]} {state}" for state in ("running", "waiting", _LOST, _FAILED) if counts[state]]
        said += [f"{plan.settled} were up to date"] if plan.settled else []
        driver = "" if self.driven() else f"; its driver ({plan.place}) is gone: start it again, and it goes on"
        found = [f"{plan.title}: {', '.join(said)}{_time_left(entries, states)}{driver}"]
        for wanted in ("running", _LOST, _FAILED, *(("waiting", "finished") if every else ())):
            for task in (task for task, state in states.items() if state == wanted):
                missing = [need for need in plan.needs[task] if states.get(need) != "finished"]
                found.append(f"  {_line(task, wanted, entries[task], missing)}")
        return found


def whereabouts() -> str:
    """This machine, process and its GPUs, in words."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"{socket.gethostname()}:{os.getpid()}{f' GPU {devices}' if devices else ''}"


def _state(entry: Entry | None) -> str:
    if entry is None:
        return "waiting"
    return _LOST if entry.state == "running" and time.time() - entry.beat > _SILENT else entry.state


def _line(task: str, state: str, entry: Entry | None, missing: Sequence[str] = ()) -> str:
    if entry is None:
        more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
        return f"waiting   {task}: for {', '.join(missing[:2]) or 'a free worker'}{more}"
    again = f", attempt {entry.attempt}" if entry.attempt > 1 else ""
    lasted = entry.beat - entry.since
    if state == "running" and entry.unit:
        rate = (entry.done - entry.first) / max(1e-9, lasted)
        left = f", {(entry.total - entry.done) / rate:.0f} s left" if rate > 0 and entry.total else ""
        counted = f"{entry.done}/{entry.total}" if entry.total else str(entry.done)
        return f"{state:9} {task}: {counted} {entry.unit}, {rate:.1f}/s{left}, {entry.place}{again}"
    known = [entry.how, entry.place, f"{lasted:.0f} s" if entry.since else ""]
    return f"{state:9} {task}: {', '.join(filter(None, known))}{again}"


def _time_left(entries: Mapping[str, Entry | None], states: Mapping[str, str]) -> str:
    """By what finished tasks of each kind took, over the workers that are busy."""
    took: dict[str, list[float]] = {}
    for task, entry in entries.items():
        if entry and entry.state == "finished" and entry.how == "done":
            took.setdefault(_kind(task), []).append(entry.beat - entry.since)
    busy = sum(state == "running" for state in states.values())
    waiting = [_kind(task) for task, state in states.items() if state in ("waiting", "running")]
    if not busy or not took:
        return ""
    means = {kind: sum(seconds) / len(seconds) for kind, seconds in took.items()}
    overall = sum(means.values()) / len(means)
    seconds = sum(means.get(kind, overall) for kind in waiting) / busy
    return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


def _kind(task: str) -> str:
    """Of "distill@row seed 3": the stage, and whether it is one seed."""
    return f"{task.partition('@')[0].partition(' ')[0]}{' seed' if ' seed ' in task else ''}"


def _write(path: Path, content: BaseModel) -> None:
    """Whole or not at all; a state that is lost with its machine is no loss, so the disk is not waited for."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(content.model_dump_json(), encoding="utf-8")
    beside.replace(path)

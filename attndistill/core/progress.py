"""Progress of long work: a bar with rate, time and time left on a terminal, plain lines otherwise.

A unit that takes long (a model's probes) is not silent either: a thread says every few seconds that the work goes on.

It is best effort, like everything that is shown: a standard error that is closed, full or read by nobody ends no run.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_LINE_EVERY = 15.0  # seconds between plain lines
_SILENT = 15.0  # seconds without one, after which the work is said to go on


class _Standard:
    """A standard stream, as long as somebody takes what it is given."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys, self._name), name)

    def isatty(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):  # AttributeError: None, where Python was started without
            return bool(getattr(sys, self._name).isatty())
        return False

    def write(self, text: str) -> int:
        self._attempt(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, act: Callable[[Any], object]) -> None:
        stream = getattr(sys, self._name)
        try:
            act(stream)
        except UnicodeError:
            pass  # a name that this terminal's encoding lacks
        except (OSError, ValueError, AttributeError):
            # what could not be written stays in the stream's buffer, and would make Python itself end with code 120
            with suppress(OSError, ValueError, AttributeError):
                number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


def say(line: str, stream: str = "stdout") -> None:
    """A line on standard output ("stderr": standard error), for whoever reads it."""
    print(line, file=_Standard(stream), flush=True)


_watchers: list[Callable[[str, int, int], None]] = []  # of an engine's worker, whose progress others show


@contextmanager
def watched(told: Callable[[str, int, int], None]) -> Iterator[None]:
    """Tell progress to a function of (unit, done, total) for the length of a block, and show none of it here."""
    _watchers.append(told)
    try:
        yield
    finally:
        _watchers.remove(told)


@contextmanager
def progress(
    label: str, total: int, unit: str, done: int = 0, *, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of units done.

    Args:
        label: what is going on.
        total: units in all; 0 where nobody knows.
        unit: name of a unit, plural.
        done: units done before this process began (a resumed run); they do not count towards the rate.
        shown: False says nothing (all but one process of a distributed run).
    """
    stream = _Standard("stderr")
    if not shown:
        yield lambda done: None
    elif _watchers:
        told = _watchers[-1]
        told(unit, done, total)
        yield lambda now_done: told(unit, now_done, total)
    elif stream.isatty():
        with _bar(stream, label, total, unit, done) as update:
            yield update
    else:
        lines = _Lines(stream, label, total, unit, done)
        try:
            yield lines
            lines.end()
        finally:
            lines.over.set()


@contextmanager
def _bar(stream: Any, label: str, total: int, unit: str, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task(label, total=total or None, completed=done, rate="")

        def update(now_done: int) -> None:
            bar.update(task, completed=now_done, rate=f"{_rate(now_done - done, started):.1f} {unit}/s")

        yield update


class _Lines:
    """Plain lines, at most one every few seconds, and one at the end."""

    def __init__(self, stream: Any, label: str, total: int, unit: str, done: int) -> None:
        self.stream, self.label, self.total, self.unit, self.first = stream, label, total, unit, done
        self.started = self.last = time.monotonic()
        self.done, self.ended = done, False
        self.over, self._turn = threading.Event(), threading.RLock()
        threading.Thread(target=self._go_on, daemon=True).start()

    def __call__(self, done: int) -> None:
        with self._turn:
            self.done = done
            if self.total and done >= self.total:
                self.end()
            elif not self.ended and time.monotonic() - self.last >= _LINE_EVERY:
                rate = _rate(done - self.first, self.started)
                self._print(f", {(self.total - done) / rate:.0f} s left" if self.total and rate else "")

    def end(self) -> None:
        """The last line; nothing is said of work that nobody began."""
        with self._turn:
            if not self.ended and self.done > self.first:
                self._print(f", {time.monotonic() - self.started:.0f} s")
                self.ended = True

    def _go_on(self) -> None:
        """Say so where nothing was said for long, until it is over."""
        while not self.over.wait(max(0.01, self.last + _SILENT - time.monotonic())):
            with self._turn:
                if not (self.ended or self.over.is_set()) and time.monotonic() - self.last >= _SILENT:
                    self._print(f", goes on since {time.monotonic() - self.started:.0f} s")

    def _print(self, ending: str) -> None:
        self.last = time.monotonic()
        count = f"{self.done}/{self.total}" if self.total else str(self.done)
        rate = _rate(self.done - self.first, self.started)
        print(f"{self.label}: {count} {self.unit}, {rate:.1f}/s{ending}", file=self.stream, flush=True)


def _rate(units: int, started: float) -> float:
    return units / max(1e-9, time.monotonic() - started)

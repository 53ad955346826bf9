"""Progress of long work: a bar with rate and time left on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY = 15.0  # seconds between plain lines


@contextmanager
def progress(
    label: str, total: int, unit: str, done: int = 0, *, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of units done.

    Args:
        label: what is going on.
        total: units in all.
        unit: name of a unit, plural.
        done: units done before this process began (a resumed run); they do not count towards the rate.
        shown: False says nothing (all but one process of a distributed run).
    """
    if not shown:
        yield lambda done: None
    elif sys.stderr.isatty():
        with _bar(label, total, unit, done) as update:
            yield update
    else:
        yield _Lines(label, total, unit, done)


@contextmanager
def _bar(label: str, total: int, unit: str, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="")

        def update(now_done: int) -> None:
            bar.update(task, completed=now_done, rate=f"{_rate(now_done - done, started):.1f} {unit}/s")

        yield update


class _Lines:
    """Plain lines, at most one every few seconds, and one at the end."""

    def __init__(self, label: str, total: int, unit: str, done: int) -> None:
        self.label, self.total, self.unit, self.first = label, total, unit, done
        self.started = self.last = time.monotonic()
        self.ended = False

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self.ended or (now - self.last < _LINE_EVERY and done < self.total):
            return
        self.ended = done >= self.total
        self.last = now
        rate = _rate(done - self.first, self.started)
        left = (self.total - done) / rate if rate else float("inf")
        ending = f"{now - self.started:.0f} s" if done >= self.total else f"{left:.0f} s left"
        print(f"{self.label}: {done}/{self.total} {self.unit}, {rate:.1f}/s, {ending}", file=sys.stderr, flush=True)


def _rate(units: int, started: float) -> float:
    return units / max(1e-9, time.monotonic() - started)

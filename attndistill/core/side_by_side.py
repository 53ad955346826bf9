"""Work side by side in forked processes: seeds of one row, views of the target cache. Small models leave a core idle.

A child sends nothing back but errors: what it makes, it leaves on disk (a finished resume checkpoint, a part of a
memory-mapped array). So the result is the same bytes as one after another.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from attndistill.core.memory import memory_ran_out
from attndistill.core.progress import progress

Told = Callable[[int], None]  # steps done
_POLL = 0.2  # seconds between looks at the children's progress
# what one line explains; anything else is a mistake of ours: it is named, and the child prints its traceback
_ERRORS = (ValueError, FloatingPointError, OSError, KeyboardInterrupt, MemoryError)


def side_by_side(
    work: Callable[[int, Told], object], items: Sequence[int], processes: int, *, steps: int, label: str, unit: str
) -> None:
    """Do every item in a child process, at most `processes` at a time.

    Args:
        work: (item, told) -> anything; `told` takes the steps done.
        items: seeds, view numbers.
        processes: children at a time. The parent must not have used more than one torch thread: thread pools do not
            survive a fork.
        steps: of one item, for the progress bar.
        label: of the progress bar.
        unit: of the steps, plural.

    Raises:
        ValueError, FloatingPointError, OSError, MemoryError: what a child raised; the other children are ended.
        ChildProcessError: a child ended by something else, which is named, or died without a word.
    """
    if processes == 1:
        _one_after_another(work, items, steps=steps, label=label, unit=unit)
        return
    fork = multiprocessing.get_context("fork")
    done = fork.RawArray("q", len(items))
    waiting = list(enumerate(items))
    running: dict[Any, tuple[Any, Any, int]] = {}
    try:
        with progress(label, steps * len(items), unit) as update:
            while waiting or running:
                while waiting and len(running) < processes:
                    place, item = waiting.pop(0)
                    receiver, sender = fork.Pipe(duplex=False)
                    child = fork.Process(target=_child, args=(work, item, done, place, sender, os.getpid()))
                    child.start()
                    sender.close()
                    running[child.sentinel] = child, receiver, item
                for sentinel in wait(list(running), _POLL):
                    _conclude(*running.pop(sentinel))
                update(sum(done))
    finally:
        for child, _, _ in running.values():
            child.kill()
            child.join()


def _one_after_another(
    work: Callable[[int, Told], object], items: Sequence[int], *, steps: int, label: str, unit: str
) -> None:
    with progress(label, steps * len(items), unit) as update:
        for place, item in enumerate(items):
            work(item, lambda done, before=place * steps: update(before + done))  # type: ignore[misc]


def _child(work: Callable[[int, Told], object], item: int, done: Any, place: int, sender: Any, parent: int) -> None:
    die_with_parent(parent)

    def told(steps: int) -> None:
        done[place] = steps

    try:
        work(item, told)
    except BaseException as error:
        kinds = (MemoryError,) if memory_ran_out(error) else type(error).__mro__
        known = [number for number, kind in enumerate(_ERRORS) if kind in kinds]
        sender.send((known[0], str(error)) if known else (None, f"{type(error).__name__}: {error}"))
        if not known:
            raise
        sys.exit(1)


def _conclude(child: Any, receiver: Any, item: int) -> None:
    child.join()
    if child.exitcode == 0:
        return
    with suppress(EOFError):  # the pipe's end alone: it died without a word
        if receiver.poll():
            kind, message = receiver.recv()
            if kind is None:
                raise ChildProcessError(f"the process working on {item} ended with {message}")
            raise _ERRORS[kind](message)
    if child.exitcode < 0:
        name = signal.Signals(-child.exitcode).name
        hint = " (is memory short?)" if name == "SIGKILL" else ""
        raise ChildProcessError(f"the process working on {item} was ended by {name}{hint}")
    raise ChildProcessError(f"the process working on {item} ended with exit code {child.exitcode}, without a word")


def die_with_parent(parent: int) -> None:
    """Linux: a parent that is killed takes its children along, so that none goes on training unseen."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

"""Seeds side by side: small models leave a core idle, so several seeds train at once in forked processes.

A child trains one seed to its end and leaves the finished resume checkpoint; the parent then runs every seed itself,
finds the checkpoints finished, and goes on as if it had trained them. So nothing has to be sent back, and the result
is the same bytes as one seed after another.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from attndistill.core.progress import progress

Told = Callable[[int], None]  # steps done
_POLL = 0.2  # seconds between looks at the children's progress
_ERRORS = {error.__name__: error for error in (ValueError, FloatingPointError, KeyboardInterrupt)}


def train_side_by_side(
    train: Callable[[int, Told], object], seeds: Sequence[int], processes: int, steps: int, label: str
) -> None:
    """Train every seed in a child process, at most `processes` at a time.

    Args:
        train: (seed, told) -> anything; `told` takes the steps done.
        seeds: what to train.
        processes: children at a time. The parent must not have used more than one torch thread: thread pools do not
            survive a fork.
        steps: of one seed, for the progress bar.
        label: of the progress bar.

    Raises:
        ValueError, FloatingPointError: what a child raised; the other children are ended.
        RuntimeError: a child died without a word.
    """
    fork = multiprocessing.get_context("fork")
    done = fork.RawArray("q", len(seeds))
    waiting = list(enumerate(seeds))
    running: dict[Any, tuple[Any, Any, int]] = {}
    try:
        with progress(label, steps * len(seeds), "steps") as update:
            while waiting or running:
                while waiting and len(running) < processes:
                    place, seed = waiting.pop(0)
                    receiver, sender = fork.Pipe(duplex=False)
                    child = fork.Process(target=_child, args=(train, seed, done, place, sender, os.getpid()))
                    child.start()
                    sender.close()
                    running[child.sentinel] = child, receiver, seed
                for sentinel in wait(list(running), _POLL):
                    _conclude(*running.pop(sentinel))
                update(sum(done))
    finally:
        for child, _, _ in running.values():
            child.kill()
            child.join()


def _child(train: Callable[[int, Told], object], seed: int, done: Any, place: int, sender: Any, parent: int) -> None:
    _die_with_parent(parent)

    def told(steps: int) -> None:
        done[place] = steps

    try:
        train(seed, told)
    except (ValueError, FloatingPointError, KeyboardInterrupt) as error:
        sender.send((type(error).__name__, str(error)))
        sys.exit(1)


def _conclude(child: Any, receiver: Any, seed: int) -> None:
    child.join()
    if child.exitcode == 0:
        return
    if receiver.poll():
        kind, message = receiver.recv()
        raise _ERRORS[kind](message)
    raise RuntimeError(f"the process training seed {seed} ended with {child.exitcode}")


def _die_with_parent(parent: int) -> None:
    """Linux: a parent that is killed takes its children along, so that none goes on training unseen."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

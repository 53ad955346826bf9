"""Work in forked processes: what a child says when it fails, and what is said of one that cannot."""

import os
import re
import signal
from collections.abc import Callable

import pytest

from attndistill.core.side_by_side import side_by_side


def run(work: Callable[[int], object]) -> None:
    side_by_side(lambda item, told: work(item), [0, 7], 2, steps=1, label="seeds", unit="steps")


def fail(error: Exception) -> Callable[[int], object]:
    def work(item: int) -> None:
        if item == 7:
            raise error

    return work


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no such row"), ValueError),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "no such row"), ValueError),
        (FloatingPointError("no such row"), FloatingPointError),
        (FileNotFoundError(2, "no such row", "a"), OSError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_a_user_can_read_reaches_the_parent_with_its_words(error, kind):
    with pytest.raises(kind, match="no such row"):
        run(fail(error))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
)
def test_a_child_that_lacks_memory_says_so_without_a_traceback(capfd, error):
    with pytest.raises(MemoryError):
        run(fail(error))
    assert capfd.readouterr().err == ""


def test_a_child_that_was_killed_is_named_with_the_signal():
    def work(item: int) -> None:
        if item == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        ChildProcessError, match=r"^the process working on 7 was ended by SIGKILL \(is memory short\?\)$"
    ):
        run(work)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("layer"), "KeyError: 'layer'"),
        (AssertionError("2 of 3 views"), "AssertionError: 2 of 3 views"),
        (RuntimeError("shape '[4, 3]' is invalid"), "RuntimeError: shape '[4, 3]' is invalid"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_mistake_of_ours_in_a_child_is_named_to_the_parent_and_shows_where_it_is(capfd, error, words):
    with pytest.raises(ChildProcessError, match=f"^{re.escape(f'the process working on 7 ended with {words}')}$"):
        run(fail(error))
    assert "in work" in capfd.readouterr().err


def test_a_child_that_leaves_without_a_word_is_named_with_its_code():
    with pytest.raises(ChildProcessError, match="the process working on 7 ended with exit code 3, without a word"):
        run(lambda item: os._exit(3) if item == 7 else None)

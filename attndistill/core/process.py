"""How a process of our own starts, ends and holds memory. It changes nothing that is computed."""

import atexit
import ctypes
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from attndistill.core.later import import_later

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1  # of its settings, bytes


def begin_process() -> None:
    """Of a program of ours: unused libraries stay away, freed memory is kept, no garbage is looked for at first.

    What imports make lives as long as the process. To look through torch's million objects again and again is a fifth
    of what a stage costs. `collect_from_here` ends that.
    """
    gc.disable()
    keep_memory()
    import_later()


def end_process(code: int) -> NoReturn:
    """End as Python does, but for the last thing, to take its objects apart one by one: another fifth of a stage.

    Everything that asked to be called at the end is called, and what was printed is written.
    """
    if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):  # a reader who has gone, a stream that is closed: Python says so itself
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def collect_from_here() -> None:
    """Garbage is collected from now on, but for what is there: once a process, where its work begins."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def keep_memory(below: int = _MOST) -> None:
    """What one step frees the next one takes, instead of fresh pages from the system, each to be filled with zeros.

    For glibc's malloc, of which it asks no alignment and no order: results keep their bytes. Elsewhere it does nothing.

    Args:
        below: bytes. Pieces of as many or more come from the system and go back to it, as does twice as much at the
            heap's end. glibc by itself gets to 32 MB.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, below)
        mallopt(_TRIM_THRESHOLD, min(2 * below, _MOST))

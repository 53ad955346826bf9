"""How a process of our own starts, ends and holds memory. It changes nothing that is computed."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1  # of its settings, bytes


@contextmanager
def quick_process() -> Iterator[None]:
    """The whole of a process: no garbage is looked for until `collect_from_here`, nor when it ends; memory is kept.

    What imports make lives as long as the process. torch's million objects looked through again and again, and once
    more at the end, are a third of what a stage costs.
    """
    gc.disable()
    keep_memory()
    try:
        yield
    finally:
        if "triton" not in sys.modules:  # whose bindings count at the end what was not collected, and complain
            gc.freeze()


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

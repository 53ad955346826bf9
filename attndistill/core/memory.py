"""Whether memory ran out: Python has a type for it, torch says so in words."""

import re

_WORDS = re.compile("allocate memory|out of memory|ALLOC_FAILED|without overflow", re.IGNORECASE)


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, or that more of it was asked for than can be counted."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_WORDS.search(str(error))))

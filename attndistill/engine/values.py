"""What the options of `--on`'s file may be: numbers that a machine can have, words that are nothing but words."""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_MOST_GPUS = 1024  # of a machine


def _chosen(given: object) -> tuple[int, ...] | None:
    """The GPUs that `gpus` means."""
    found: Sequence[object] = ()
    span = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", given) if isinstance(given, str) else None
    if given is None:
        return None
    if type(given) is int:
        found = range(min(given, _MOST_GPUS + 1))
    elif span:
        found = range(int(span[1]), int(span[2] or span[1]) + 1)
    elif isinstance(given, list):
        found = given
    chosen = tuple(place for place in found if type(place) is int and 0 <= place < _MOST_GPUS)
    if not chosen or len(set(chosen)) < len(found):
        raise ValueError(f'allowed: how many, or which ("0-7", [0, 2]), each once, below {_MOST_GPUS}')
    return chosen


def _only(pattern: str, allowed: str) -> AfterValidator:
    """A text that goes into a job's script or a pod: nothing in it is more than it says."""

    def check(given: str) -> str:
        if re.fullmatch(pattern, given) is None:
            raise ValueError(f"allowed: {allowed}")
        return given

    return AfterValidator(check)


Gpus = Annotated[tuple[int, ...] | None, BeforeValidator(_chosen)]
Count = Annotated[int, Field(ge=1, le=10_000)]
Few = Annotated[int, Field(ge=1, le=1024)]
Seconds = Annotated[int, Field(ge=2, le=86_400)]
Name = Annotated[str, _only(r"[\w.@+:/-][\w.@+:/,-]*", "letters, digits and . @ + : / , - _")]
Label = Annotated[str, _only(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "small letters, digits, . and -")]
Line = Annotated[str, _only(r"\S[^\x00-\x1f\x7f]*", "one line")]
Time = Annotated[str, _only(r"(?!0+:00:00$)\d{1,4}:[0-5]\d:[0-5]\d", 'hours:minutes:seconds, such as "12:00:00"')]
Amount = Annotated[str, _only(r"[1-9]\d{0,8}([KMGT]i?)?", 'such as "32Gi"')]
Folder = Annotated[str, _only(r"/[^\x00-\x1f\x7f]*", "an absolute path")]
OwnFolder = Annotated[str, _only(r"[/$][^\x00-\x1f\x7f]*", "an absolute path, or one that begins with a $VARIABLE")]

"""Values within nested values: where they are, and copies with another in their place."""

import json
from collections.abc import Iterator
from typing import Any


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place within nested values."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(value[key], (*place, key))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a place; without the place where `new` is `places`."""
    copy = json.loads(json.dumps(value))
    *parents, last = place
    node = copy
    for part in parents:
        node = node[part]
    if new is places:
        del node[last]
    else:
        node[last] = new
    return copy

"""The one reader of YAML: plain values, bounded in size and depth, whatever the text says."""

import re
from copy import deepcopy
from functools import cache, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from attndistill.core.words import shown


class Bounds(NamedTuple):
    """The most that a text may hold: bytes, values (aliases written out), and letters in a line."""

    size: int
    values: int
    line: int


BY_HAND = Bounds(2**18, 4_000, 2**18)  # the parser takes a second for as many
BY_DVC = Bounds(2**22, 2**17, 2**13)  # a dvc.lock: that of table10 has a megabyte, 50,000 values, and DVC folds lines
_DEEPEST = 32  # levels
_DIGITS = 300  # of an integer: longer ones cannot even be printed
_TOO_DEEP = f"values lie within one another too deeply; allowed: {_DEEPEST} levels"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 mapping, as DVC reads it; an empty file is an empty one.

    Raises:
        ValueError: one line that names the file.
    """
    if not path.exists():
        raise ValueError(f"{shown(path)} does not exist")
    value = read_plain_yaml(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{shown(path)} must hold a mapping, not {type(value).__name__}")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise ValueError(f"{shown(path)}: the key {shown(odd[0])} is no word")
    return value


def read_plain_yaml(path: Path, most: Bounds = BY_HAND) -> Any:
    """A YAML 1.2 file, as DVC reads it. Aliases may repeat a value, but not make a large or an endless one.

    Raises:
        ValueError: one line that names the file.
    """
    from attndistill.core.reading import read_text

    return plain_yaml(read_text(path, at_most=most.size), str(path), most)


def plain_yaml(text: str, place: str, most: Bounds = BY_HAND) -> Any:
    """The same of a text; `place` says whose it is."""
    from ruamel.yaml.error import YAMLError

    try:
        return deepcopy(_parsed(text, most))
    except YAMLError as error:
        raise ValueError(f"{shown(place)} is not valid YAML: {shown(_fault(error))}") from None
    except RecursionError:
        raise ValueError(f"{shown(place)}: {_TOO_DEEP}") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:  # of a date, a number, a tag
        raise ValueError(f"{shown(place)} cannot be read: {shown(error)}") from None


@lru_cache(maxsize=32)
def _parsed(text: str, most: Bounds) -> Any:
    """The values of a text. One command asks for a dvc.lock several times."""
    if len(text) > most.size:
        raise ValueError(f"{len(text)} letters; allowed: {most.size}")
    if (longest := max(map(len, text.split("\n")))) > most.line:
        raise ValueError(f"a line of {longest} letters; allowed: {most.line}")
    if len(re.findall(r"[\[{,:\n]", text)) > 2 * most.values:  # a mark or two make a value
        raise ValueError(_too_many(most))
    if most is BY_DVC and (found := _machine_written(text)) is not None:
        return found
    yaml = _yaml()
    root = yaml.compose(text)
    if root is None:
        return None
    _measure(root, {}, 0, most)
    return yaml.constructor.construct_document(root)


def _machine_written(text: str) -> Any:
    """The values of a dvc.lock, by libyaml: a megabyte takes the other parser four seconds, at every stage's start.

    None for what DVC does not write: anchors, tags, keys that are no words, two documents, faults. Words mean what they
    mean to the other parser (`on` is no truth value in YAML 1.2).
    """
    import yaml  # not the one that people's files are read by: YAML 1.1

    events = yaml.parse(text, Loader=yaml.CSafeLoader)

    def value(event: Any, depth: int) -> Any:
        if event.anchor is not None or getattr(event, "tag", None) is not None or depth > _DEEPEST:
            raise ValueError(event)
        if isinstance(event, yaml.ScalarEvent):
            return _meant(event.value) if event.implicit[0] else event.value
        end = yaml.SequenceEndEvent if isinstance(event, yaml.SequenceStartEvent) else yaml.MappingEndEvent
        inner = takewhile(lambda one: not isinstance(one, end), events)
        if end is yaml.SequenceEndEvent:
            return [value(one, depth + 1) for one in inner]
        found: dict[str, Any] = {}
        for one in inner:
            key = value(one, depth + 1)
            if not isinstance(key, str) or key in found:
                raise ValueError(key)
            found[key] = value(next(events), depth + 1)
        return found

    try:
        kinds = (type(next(events)), type(next(events)))
        if kinds != (yaml.StreamStartEvent, yaml.DocumentStartEvent):
            return None
        whole = value(next(events), 0)
        kinds = (type(next(events)), type(next(events)))
    except (yaml.YAMLError, ValueError):
        return None
    return whole if kinds == (yaml.DocumentEndEvent, yaml.StreamEndEvent) else None


@lru_cache(maxsize=2**14)
def _meant(word: str) -> Any:
    """The value of an unquoted word in YAML 1.2. Raises ValueError for one that DVC would not have written."""
    from ruamel.yaml.nodes import ScalarNode

    yaml = _yaml()
    kind = str(yaml.resolver.resolve(ScalarNode, word, (True, False)))
    if kind == "tag:yaml.org,2002:str":
        return word
    if len(word) > _DIGITS or not kind.endswith((":int", ":float", ":bool", ":null", ":timestamp")):
        raise ValueError(word)
    return yaml.load(word)


@cache
def _yaml() -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True)


def _fault(error: Any) -> str:
    """What is wrong, and in which line where that is known; without the file's lines and advice for programmers."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    text = " ".join(str(problem or error).split())
    return f"{text} (line {mark.line + 1})" if problem and mark else text


def _measure(node: Any, sizes: dict[int, int], depth: int, most: Bounds) -> int:
    """How many values a node is, aliases written out. Raises ValueError where they are too many or too deep."""
    from ruamel.yaml.nodes import MappingNode, ScalarNode

    if depth > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    if isinstance(node, ScalarNode):
        if str(node.tag).endswith(":int") and len(node.value) > _DIGITS:
            raise ValueError(f"an integer of {len(node.value)} digits; allowed: {_DIGITS}")
        return 1
    if id(node) not in sizes:
        parts = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
        if isinstance(node, MappingNode) and not all(isinstance(key, ScalarNode) for key, _ in node.value):
            raise ValueError("a list or a mapping stands for a key; allowed: words")
        sizes[id(node)] = 1 + sum(_measure(part, sizes, depth + 1, most) for part in parts)
    if sizes[id(node)] > most.values:
        raise ValueError(_too_many(most))
    return sizes[id(node)]


def _too_many(most: Bounds) -> str:
    return f"it has more than {most.values} values"

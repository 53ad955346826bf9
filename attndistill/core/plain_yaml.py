"""YAML from people's hands, as plain values: bounded in size and depth, whatever the text says."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from attndistill.core.reading import read_text
from attndistill.core.words import shown

_LARGEST = 2**18  # bytes
_MOST = 4_000  # values, aliases written out: the parser takes a second for as many
_DEEPEST = 32  # levels
_DIGITS = 300  # of an integer: longer ones cannot even be printed
_TOO_DEEP = f"values lie within one another too deeply; allowed: {_DEEPEST} levels"
_TOO_MANY = f"it has more than {_MOST} values"


def read_plain_yaml(path: Path) -> Any:
    """A YAML 1.2 file, as DVC reads it. Aliases may repeat a value, but not make a large or an endless one.

    Raises:
        ValueError: one line that names the file.
    """
    text = read_text(path, at_most=_LARGEST)
    yaml = YAML(typ="safe", pure=True)
    try:
        if len(re.findall(r"[\[{,:\n]", text)) > 2 * _MOST:  # a mark or two make a value
            raise ValueError(_TOO_MANY)
        root = yaml.compose(text)
        if root is None:
            return None
        _measure(root, {}, 0)
        return yaml.constructor.construct_document(root)
    except YAMLError as error:
        raise ValueError(f"{shown(path)} is not valid YAML: {shown(_fault(error))}") from None
    except RecursionError:
        raise ValueError(f"{shown(path)}: {_TOO_DEEP}") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:  # of a date, a number, a tag
        raise ValueError(f"{shown(path)} cannot be read: {shown(error)}") from None


def _fault(error: YAMLError) -> str:
    """What is wrong, and in which line where that is known; without the file's lines and advice for programmers."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    text = " ".join(str(problem or error).split())
    return f"{text} (line {mark.line + 1})" if problem and mark else text


def _measure(node: Node, sizes: dict[int, int], depth: int) -> int:
    """How many values a node is, aliases written out. Raises ValueError where they are too many or too deep."""
    if depth > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    if isinstance(node, ScalarNode):
        if str(node.tag).endswith(":int") and len(node.value) > _DIGITS:
            raise ValueError(f"an integer of {len(node.value)} digits; allowed: {_DIGITS}")
        return 1
    if id(node) not in sizes:
        parts = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_measure(part, sizes, depth + 1) for part in parts)
    if sizes[id(node)] > _MOST:
        raise ValueError(_TOO_MANY)
    return sizes[id(node)]

"""Malformed inputs by kind, and what is asked of each: one line, soon, in bounded memory, nothing run or written."""

import json
import os
import pickle
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nested import changed, places

LONG = "9" * 5_000
SECONDS, KIBIBYTES = 2.0, 2**20  # of processor time, of memory
VALUES = [
    None,
    [],
    {},
    "x",
    True,
    -1,
    1.5,
    10**30,
    [[1]],
    {"a": {"b": [None]}},
    "../../README",
    "\x1b[31m",
    "x" * 100_000,
]
LAUGHS = [("abcdefgh"[place], "bcdefghi"[place]) for place in range(8)]
YAML_TEXTS = {
    "a list": "[1, 2]",
    "a text": "hello",
    "cut": "a: b\nsearch: {c: {type: flo",
    "not a bool": "row: !!bool hello",
    "not an int": "trials: !!int hello",
    "not a date": "row: 2001-99-99",
    "python": "row: !!python/object/apply:os.system ['touch executed']",
    "python name": "row: !!python/name:os.system",
    "an unknown tag": "row: !mine x",
    "binary": "row: !!binary ====",
    "a set": "row: !!set {a, b}",
    "a real date": "row: 2001-09-09",
    "not a number": "timeout: .nan\nmargin: .inf",
    "a huge integer": f"trials: {LONG}",
    "a huge hexadecimal": f"trials: 0x{LONG}",
    "a huge base 60": f"trials: {'59:' * 3000}59",
    "deep lists": "row: " + "[" * 100_000,
    "deep mappings": "row: " + "{a: " * 5_000 + "1" + "}" * 5_000,
    "forty levels": "row: " + "[" * 40 + "]" * 40,
    "itself": "row: &a [*a]",
    "itself in a mapping": "&a {row: *a}",
    "itself by merging": "row: &a {<<: *a}",
    "an alias of nothing": "row: *a",
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]" for a, b in LAUGHS),
    "merged laughs": "a: &a {x: 1}\n" + "\n".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 10)}]}}" for a, b in LAUGHS),
    "a key twice": "row: a\nrow: b",
    "a list for a key": "[a, b]: c",
    "a mapping for a key": "{a: b}: c",
    "a number for a key": "1: 2",
    "null for a key": "~: 2",
    "two documents": "row: a\n---\nrow: b",
    "a tabulator": "row:\n\t- a",
    "a null byte": "row: a\0b",
    "escapes": 'row: "\\e]0;mine\\a"',
    "ten thousand keys": "\n".join(f"k{number}: 1" for number in range(9_000)),
    "many values": "row: [" + "1," * 20_000 + "]",
    "five megabytes": "row: " + "x" * 5_000_000,
    "two megabytes of words": "row: " + "x " * 1_000_000,
}
JSON_TEXTS = {
    "null": "null",
    "a list": "[]",
    "a number": "1e999",
    "not a number": "NaN",
    "deep lists": "[" * 100_000,
    "deep mappings": '{"a":' * 50_000,
    "a huge integer": f'{{"offset": {LONG}}}',
    "a megabyte": "x" * 1_000_000,
    "half a letter": '{"a": "\\ud800"}',
}
BYTES = {
    "nothing": b"",
    "zeros": bytes(4096),
    "latin letters": b"row: \xff\xfe",
    "UTF-16": '{"row": "a"}'.encode("utf-16"),
    "half a gzip": b"\x1f\x8b\x08\x00" + bytes(8),
    "half a zip": b"PK\x03\x04" + bytes(40),
    "a program": pickle.dumps(print) + b"cos\nsystem\n(S'touch executed'\ntR.",
    "escapes": b"\x1b]0;mine\x07\x1b[2J\n",
}


@dataclass(frozen=True)
class Kind:
    """One kind of file that the product reads.

    Attributes:
        name: for people.
        make: folder -> the file, good, with whatever belongs beside it.
        read: the file -> what is read; raises ValueError.
        form: "yaml", "json", "bytes" or "lines".
        same: what is read -> something equal where the same was read: bytes that were changed are refused, or nobody
            reads them. None where another good file may come of it.
        lenient: a reader of others' records, which takes what it can and leaves the rest.
        strict: none of `YAML_TEXTS` is such a file.
        turns: how often it is cut, and flipped.
        fine: names of inputs that are good files.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    form: str
    same: Callable[[Any], Any] | None = None
    lenient: bool = False
    strict: bool = False
    turns: int = 12
    fine: tuple[str, ...] = ()


@dataclass
class Count:
    """What became of the inputs of one kind."""

    refused: int = 0
    taken: int = 0
    names: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.refused + self.taken


def contents(kind: Kind, whole: bytes) -> Iterator[tuple[str, bytes, bool]]:
    """(name, bytes, whether they can be no good file) in the place of a good file's bytes."""
    draw = random.Random(kind.name)
    yield from (
        (name, data, kind.form != "lines" or name in ("nothing", "latin letters")) for name, data in BYTES.items()
    )
    for turn in range(kind.turns):
        place = draw.randrange(len(whole))
        yield f"cut at {place}", whole[:place], kind.form in ("json", "bytes")
        flipped = bytearray(whole)
        flipped[draw.randrange(min(len(whole), 4096)) if turn % 2 else place] ^= draw.randrange(1, 256)
        yield f"{turn}: a byte flipped", bytes(flipped), False
    if kind.form == "yaml":
        yield from ((name, text.encode(), kind.strict) for name, text in YAML_TEXTS.items())
    if kind.form == "json":
        yield from ((name, text.encode(), not kind.lenient) for name, text in JSON_TEXTS.items())
        yield "a key twice", whole.replace(b'":', b'": 1, "x":', 1), False
        yield "followed by more", whole + b"}", True
        for name, value in values(json.loads(whole), draw):
            yield name, json.dumps(value).encode(), False


def values(value: Any, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """Each key of the first level missing and null, and wrong values at drawn places."""
    every = list(places(value))
    for place in (place for place in every if len(place) == 1):
        yield f"without {place[0]}", changed(value, place, places)
        yield f"null at {place[0]}", changed(value, place, None)
    for number in range(min(16, 4 * len(every))):
        yield f"{number}: a wrong value", changed(value, draw.choice(every), draw.choice(VALUES))


def others() -> dict[str, Callable[[Path], Any]]:
    """What may stand in the place of a file that is none."""

    def speaking(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as end:
            here = Path.cwd()
            os.chdir(path.parent)  # an address has 107 letters at most
            try:
                end.bind(path.name)
            finally:
                os.chdir(here)

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(2**40)

    return {
        "a pipe": os.mkfifo,
        "a folder": Path.mkdir,
        "an endless device": lambda path: path.symlink_to("/dev/zero"),
        "a link to nothing": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a socket": speaking,
        "a terabyte of nothing": sparse,
    }


class _StuckError(BaseException):
    """A reader waits for something that never comes."""


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Fail where the block takes too much time or memory, whatever it catches."""

    def stuck(*_: object) -> None:
        raise _StuckError(what)

    before, began = signal.signal(signal.SIGALRM, stuck), time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - began < SECONDS, f"{what}: {time.process_time() - began:.1f} s"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < KIBIBYTES, f"{what}: {grown // 1024} MiB"


def is_one_line(text: str, what: str) -> None:
    assert text.isprintable(), f"{what}: {text[:300]!r}"
    assert 0 < len(text) <= 4_100, f"{what}: {len(text)} letters"
    assert "Traceback" not in text, what


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, by size and time."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
    return found


def attempt(kind: Kind, path: Path, name: str, count: Count, *, bad: bool, good: Any, around: Path) -> None:
    """Read one malformed input and hold what happens against what is promised."""
    what, before = f"{kind.name}, {name}", state(around)
    try:
        with bounded(what):
            found = kind.read(path)
    except ValueError as refusal:
        is_one_line(str(refusal), what)
        count.refused += 1
    else:
        assert kind.lenient or not bad, f"{what}: taken"
        assert kind.same is None or kind.same(found) == good, f"{what}: another value is taken"
        count.taken += 1
    count.names.append(name)
    assert state(around) == before or name in kind.fine, f"{what}: something was written"


def try_all(kind: Kind, folder: Path) -> Count:
    """Every malformed input of one kind; nothing beside the file changes, and nothing is run."""
    folder.mkdir()
    path, count = kind.make(folder), Count()
    whole = path.read_bytes()
    with bounded(kind.name):
        good = kind.read(path)
    wanted = kind.same(good) if kind.same else None
    for name, data, bad in contents(kind, whole):
        if data == whole:
            continue
        path.write_bytes(data)
        attempt(kind, path, name, count, bad=bad and name not in kind.fine, good=wanted, around=folder.parent)
    for name, put in others().items():
        path.unlink()
        put(path)
        bad = name not in ("a terabyte of nothing", *kind.fine)
        attempt(kind, path, name, count, bad=bad, good=wanted, around=folder.parent)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.touch()
    return count

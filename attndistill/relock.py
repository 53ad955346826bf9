"""Keep a dvc.lock over changes of code that change no figure: docstrings, comments, layout, messages.

DVC compares bytes, so a reworded docstring would train every student again. For each source file whose bytes differ
from those that the lock names, the text of then is looked up in git's history and held against the text of now
(`stages.code.same_code`). Where both are the same code the lock takes the new digest; where they are not, or git does
not have the text of then, the lock is left as it is and DVC runs the stage.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from attndistill.core.artifacts import write_text
from attndistill.experiments import open_experiment
from attndistill.stages.code import same_code
from attndistill.tracking.history import History

_CODE = re.compile(r"- path: (?P<path>\S+\.py)\n(?P<indent> +)hash: md5\n +md5: (?P<md5>\w+)\n +size: (?P<size>\d+)\n")


def relock(folder: Path) -> int:
    """Rewrite an experiment's dvc.lock as far as it is proved; reports each file.

    Returns:
        1 where a file's code has changed or nothing can be proved of it, else 0.
    """
    place = open_experiment(folder).folder
    lock = place / "dvc.lock"
    if not lock.exists():
        raise ValueError(f"{lock} does not exist: run `dvc repro` first")
    text = lock.read_text(encoding="utf-8")
    named = {(found["path"], found["md5"]) for found in _CODE.finditer(text)}
    history = History(place)
    kept, verdicts = dict[tuple[str, str], bytes](), dict[str, str]()
    for path, md5 in sorted(named):
        source = place / path
        now = source.read_bytes() if source.is_file() else b""
        if hashlib.md5(now, usedforsecurity=False).hexdigest() == md5:
            continue
        then = history.bytes_of(history.path_of(source), md5)
        if then is None:
            verdicts[path] = "changed; the text that the lock names is in no commit"
        elif same_code(then.decode(), now.decode()):
            kept[path, md5] = now
            verdicts[path] = "the same code"
        else:
            verdicts[path] = "other code: the stages that compute with it run again"
    if kept:
        write_text(lock, _CODE.sub(lambda found: _renewed(found, kept), text))
    for path, verdict in verdicts.items():
        print(f"{path}: {verdict}")
    print(f"{len(kept)} digests renewed in {lock.name}" if kept else f"{lock.name} is left as it is")
    return int(any(verdict != "the same code" for verdict in verdicts.values()))


def _renewed(found: "re.Match[str]", kept: dict[tuple[str, str], bytes]) -> str:
    now = kept.get((found["path"], found["md5"]))
    if now is None:
        return found[0]
    digest = hashlib.md5(now, usedforsecurity=False).hexdigest()
    lines = (f"- path: {found['path']}", "hash: md5", f"md5: {digest}", f"size: {len(now)}")
    return f"\n{found['indent']}".join(lines) + "\n"


def in_declared_order(folder: Path, rows: Sequence[str]) -> None:
    """Put the stages of a dvc.lock into the order of dvc.yaml: DVC appends them as it runs them, which it picks from a
    set. Called by every stage that DVC runs, so two clones end with the same bytes; the report, whose entry comes last,
    is never taken from DVC's cache of runs, also where all else is."""
    lock, declared = folder / "dvc.lock", folder / "dvc.yaml"
    if not (lock.is_file() and declared.is_file()):
        return
    names = [name for name, _ in _blocks(declared.read_text(encoding="utf-8"))]
    text = lock.read_text(encoding="utf-8")
    blocks = _blocks(text)

    def place(block: tuple[str, str]) -> tuple[int, int, str]:
        stage, _, row = block[0].partition("@")
        return (
            names.index(stage) if stage in names else len(names),
            rows.index(row) if row in rows else len(rows),
            block[0],
        )

    if blocks and (ordered := sorted(blocks, key=place)) != blocks:
        head = text[: text.index(blocks[0][1])]
        write_text(lock, head + "".join(block for _, block in ordered))


def _blocks(text: str) -> list[tuple[str, str]]:
    """(name, lines) of every entry under `stages:`."""
    stages = re.search(r"^stages:\n((?:  .*\n|\n)*)", text, re.MULTILINE)
    return [] if stages is None else [(found[1], found[0]) for found in _ENTRY.finditer(stages[1])]


_ENTRY = re.compile(r"^  ([^\s:]+):\n(?:   .*\n|\n)*", re.MULTILINE)

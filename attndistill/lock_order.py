"""The order of a dvc.lock's stages: that of dvc.yaml, so that two clones end with the same bytes."""

import re
from collections.abc import Sequence
from pathlib import Path

from attndistill.core.artifacts import write_text


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

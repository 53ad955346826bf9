"""Finished work: what an engine's workers made, kept until DVC has taken it.

DVC deletes a stage's outputs before it runs the stage. So what was made elsewhere is linked to `.work/finished`, under
a key of all that decides it: code, settings, inputs. The stage that finds its key puts the outputs back, and computes
nothing. A key that differs is another result: it is not taken.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attndistill.config import Config
from attndistill.core.artifacts import digest_of, file_digest, read_json, replacing_directory, sweep, write_json
from attndistill.core.places import state_folder
from attndistill.stages.code import code_digest
from attndistill.stages.declaration import Item, Stage
from attndistill.stages.layout import Layout

if TYPE_CHECKING:
    from attndistill.config.rows import RowsFile

_RECORD = "record.json"


class Finished:
    """What is known of one stage on one item that was done before.

    Args:
        layout: of the experiment.
        stage: declared.
        item: of the stage.
        config: resolved, of the item.
        rows: the experiment's, for a stage that watches them.
    """

    def __init__(self, layout: Layout, stage: Stage, item: Item, config: Config, rows: "RowsFile") -> None:
        self.layout, self.stage, self.item, self.config, self.rows = layout, stage, item, config, rows
        name = "-".join(filter(None, (stage.name, item.label)))
        self.folder = state_folder(layout.folder) / ".work" / "finished" / name

    def key(self) -> str:
        """Of all that decides the outputs. Inputs are read: they have to be there."""
        plain = self.config.plain()
        ways: dict[Path, Callable[[Path], str | None]]
        ways = dict.fromkeys(self.stage.inputs(self.layout, self.item), identity)
        for one in self.stage.outside(self.config, self.item):
            read = one.watched or one.path.startswith("outputs/")
            ways[self.layout.folder / one.path] = identity if read else _changed
        return digest_of(
            {
                "code": code_digest(self.stage.module),
                "item": self.item.label,
                "sections": {name: _at(plain, name) for name in self.stage.sections(self.item)},
                "rows": self.rows.model_dump(mode="json") if self.stage.report else None,
                "inputs": {os.path.relpath(path, self.layout.folder): of(path) for path, of in ways.items()},
            }
        )

    def keep(self, key: str) -> None:
        """Link the outputs, as they are now, under their key."""
        with replacing_directory(self.folder) as made:
            for number, path in enumerate(self.stage.outputs(self.layout, self.item)):
                _link(path, made / str(number))
            write_json(made / _RECORD, {"key": key})

    def has(self, key: str) -> bool:
        """Whether this very result is kept."""
        return (self.folder / _RECORD).exists() and read_json(self.folder / _RECORD).get("key") == key

    def take(self, key: str, *, last: bool) -> bool:
        """Put the outputs back where they were made under this key; `last` forgets them, for DVC has them then."""
        if not self.has(key):
            return False
        for number, path in enumerate(self.stage.outputs(self.layout, self.item)):
            kept = self.folder / str(number)
            if identity(path) == identity(kept):
                continue
            if kept.is_dir():
                with replacing_directory(path) as made:
                    made.rmdir()
                    _link(kept, made)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                _link(kept, path)
        if last:
            shutil.rmtree(self.folder)
            for parent in (self.folder.parent, self.folder.parent.parent):
                sweep(parent)
                if parent.exists() and not any(parent.iterdir()):
                    parent.rmdir()
        return True


def identity(path: Path) -> str | None:
    """Digest of what a file or folder holds; of a folder with a manifest, of that and of the files' sizes."""
    if not path.exists():
        return None
    if path.is_file():
        return file_digest(path)
    manifest = path / "manifest.json"
    if manifest.exists():
        return digest_of(
            [file_digest(manifest), sorted((str(f.relative_to(path)), f.stat().st_size) for f in _in(path))]
        )
    return digest_of(sorted((str(file.relative_to(path)), file_digest(file)) for file in _in(path)))


def _in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _changed(root: Path) -> str | None:
    """Of images outside: when their folders were changed, two levels deep. Their bytes are too many to be read here."""
    folders = [root, *root.glob("*/"), *root.glob("*/*/")]
    return digest_of(sorted((str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.exists()))


def _at(plain: dict[str, object], section: str) -> object:
    node: object = plain
    for part in section.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def copy_tree(source: Path, target: Path, others: Iterable[Path]) -> None:
    """Copy a folder whole, or not at all, in the place of `others`."""
    for old in others:
        shutil.rmtree(old)
    beside = target.with_name(f"part-{target.name}")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside)
    beside.rename(target)


def _link(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
    return target

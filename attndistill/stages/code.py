"""The code that a stage computes with: its module and all that this one imports, read from the source text.

An unfinished run is gone on with by the same code alone. A reader would get wrong: a package that is imported from
(`from attndistill.losses import GUIDANCE`) stands for every module in it, since a registry finds its variants there.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LIBRARIES = ("torch", "timm")
_IMPORT = re.compile(r"^ *from (attndistill\.[\w.]+) import (\([^)]*\)|[^(\n]+)", re.MULTILINE)
# they carry values; what they carry is in the digests of configuration and inputs
PLUMBING = {
    "attndistill.config",
    "attndistill.config.rows",
    *(f"attndistill.stages.{name}" for name in ("code", "context", "layout", "table")),
}


@cache
def code_digest(module: str) -> str:
    """SHA-256 of the sources behind `module` ("attndistill.stages.distill") and of the libraries' versions."""
    digest = hashlib.sha256(" ".join(f"{name}=={version(name)}" for name in _LIBRARIES).encode())
    for name, path in sorted(computed_with(module).items()):
        digest.update(f"\n{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def computed_with(module: str) -> dict[str, Path]:
    """Dotted name -> source file, of `module` and every module of ours it imports, plumbing left out."""
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found or name in PLUMBING:
            continue
        found[name] = _source(name)
        if found[name].name == "__init__.py":
            todo += [f"{name}.{path.stem}" for path in found[name].parent.glob("*.py") if path != found[name]]
        todo += _imported(found[name].read_text(encoding="utf-8"))
    return found


def _imported(text: str) -> Iterator[str]:
    """A pattern, not a parser: forty files in milliseconds. A test holds it against the parser."""
    for module, names in _IMPORT.findall(text):
        aliases = [f"{module}.{name}" for name in re.findall(r"\w+", names)]
        yield from [name for name in aliases if _source(name).exists()] or [module]


def _source(module: str) -> Path:
    path = _ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

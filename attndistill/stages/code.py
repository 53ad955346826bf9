"""The code that a stage computes with, computed from what is imported; and when two texts of it are the same code.

From a stage's module every import is followed, those inside of functions too. A name that a package's `__init__` takes
from one of its modules leads there, and a registry (`from attndistill.losses import GUIDANCE`) to the modules that
register its variants. `CARRIERS` are left out: they show, record, lock, name paths or check settings, and a test holds
them to do no arithmetic. What a reader would get wrong: settings are *resolved* by code that counts (overlays, named
sizes), so that code is watched by every stage.

Digests are of the parsed code without docstrings, comments and messages, so a reworded sentence is the same code. DVC
watches them in attndistill.lock (drivers.py), resume checkpoints and target caches carry them.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = "code"  # DVC's stage that reads the source files
RESOLUTION = "attndistill.config.resolution"  # what turns params.yaml into values: every stage depends on it
CARRIERS = {
    "attndistill",
    "attndistill.config",
    "attndistill.config.fitting",  # refuses
    "attndistill.config.method",
    "attndistill.config.rows",
    "attndistill.config.schema",
    "attndistill.core.artifacts",
    "attndistill.core.ownership",
    "attndistill.core.places",
    "attndistill.core.plain_yaml",  # refuses; DVC reads the same files by itself and watches their values
    "attndistill.core.programs",
    "attndistill.core.progress",
    "attndistill.core.ranks",
    "attndistill.core.secrets",
    "attndistill.core.sections",
    "attndistill.stages",
    "attndistill.stages.context",
    "attndistill.stages.declaration",
    "attndistill.stages.layout",
    "attndistill.stages.outside",
}
_LIBRARIES = ("torch", "timm")
_SILENT = {"print"}  # calls that only say something


def code_digest(module: str) -> str:
    """SHA-256 of the code behind `module` ("attndistill.stages.distill") and of the libraries' versions."""
    versions = " ".join(f"{name}=={version(name)}" for name in _LIBRARIES)
    return hashlib.sha256(f"{versions}\n{source_digest(module)}".encode()).hexdigest()


def source_digest(module: str) -> str:
    """SHA-256 of the files behind `module` alone, the same under every Python and with every torch."""
    lines = (f"{name}\n{_digest_of_file(ROOT / name)}\n" for name in watched_files(module))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def same_code(one: str, other: str) -> bool:
    """Whether two texts of a module are the same but for docstrings, comments, layout and messages."""
    try:
        return _written(_speechless(one)) == _written(_speechless(other))
    except (SyntaxError, ValueError, RecursionError):
        return False


@cache
def computed_with(module: str) -> dict[str, Path]:
    """Dotted name -> source file, of `module` and all that it computes with."""
    found: dict[str, Path] = {}
    todo = [module, RESOLUTION]
    while todo:
        name = todo.pop()
        if name not in found and name not in CARRIERS:
            found[name] = _source(name)
            todo += imported(name)
    return found


def watched_files(module: str) -> list[str]:
    """What decides a stage's result: the modules' files, and files of other kinds beside them (page templates)."""
    modules = set(computed_with(module).values())
    beside = {
        path
        for folder in {path.parent for path in modules}
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in (".py", ".pyc", ".typed", ".yaml")
    }
    return sorted(path.relative_to(ROOT).as_posix() for path in modules | beside)


@cache
def imported(module: str) -> tuple[str, ...]:
    """Modules of ours that a module imports when it runs."""
    found = (name for pair in _imports(module) for name in _origins(*pair, asker=module))
    return tuple(dict.fromkeys(found))


def _imports(module: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every `from MODULE import NAME`, those for type checkers alone left out."""
    todo: list[ast.AST] = [_tree(_source(module))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "attndistill":
            yield from ((str(node.module), alias.name) for alias in node.names)
        todo += ast.iter_child_nodes(node)


def _origins(module: str, name: str, *, asker: str) -> Iterator[str]:
    """Where a name that is imported from a module comes from.

    A registry's own variants import it to register themselves, which makes none of them depend on the others.
    """
    if _exists(f"{module}.{name}"):
        yield f"{module}.{name}"
        return
    yield module
    if _source(module).name != "__init__.py":
        return
    for node in _tree(_source(module)).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            yield from _origins(str(node.module), name, asker=asker)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and isinstance(node.value, ast.Call):
            homes = [part.value for part in node.value.args[1:] if isinstance(part, ast.Constant)]
            if "Registry" in ast.unparse(node.value.func):
                variants = [inner for home in homes for inner in _modules_of(str(home))]
                yield from () if asker in variants and _registers(asker) else variants


def _registers(module: str) -> bool:
    return any(".register(" in ast.unparse(line) for node in _tree(_source(module)).body for line in _decorators(node))


def _decorators(node: ast.AST) -> list[ast.expr]:
    return getattr(node, "decorator_list", [])


def _modules_of(home: str) -> list[str]:
    path = _source(home)
    if path.name != "__init__.py":
        return [home]
    return [f"{home}.{inner.stem}" for inner in sorted(path.parent.glob("[!_]*.py"))]


@cache
def _tree(path: Path) -> ast.Module:
    return _speechless(path.read_text(encoding="utf-8"))


@cache
def _digest_of_file(path: Path) -> str:
    content = _written(_tree(path)).encode() if path.suffix == ".py" else path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _speechless(text: str) -> ast.Module:
    return _Speechless().visit(ast.parse(text))  # type: ignore[no-any-return]


def _written(node: object) -> str:
    """As `ast.dump`, without what is empty: later Pythons add fields, and print them otherwise."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields)
        filled = (f"{name}={_written(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(filled)})"
    return f"[{', '.join(map(_written, node))}]" if isinstance(node, list) else repr(node)


class _Speechless(ast.NodeTransformer):
    """Takes out what cannot change a figure: docstrings, and the words of refusals, assertions and prints."""

    def _body(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        body: list[ast.stmt] = node.body  # type: ignore[attr-defined]
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
        return node

    visit_Module = visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _body  # noqa: N815

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
        return self.generic_visit(node)  # Python 3.12.1 adds empty texts

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in _SILENT:
            return ast.Pass()
        return self.generic_visit(node)


def _source(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(module: str) -> bool:
    return _source(module).exists()

"""Variants: one entry is the whole declaration (name, hyper-parameters, types, defaults).

A variant is a registered function or class. Its positional arguments are runtime objects (tensors, image sets); its
keyword-only arguments are its hyper-parameters. Their names, types and defaults are read from the *source text*, not
from the imported function, so that a wrong configuration is refused in milliseconds, before torch is imported. So are
the facts that the decorator states beside the name. A contract test holds what the text declares against what is
registered at run time.
"""

import ast
import importlib
import importlib.util
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

Entry = TypeVar("Entry", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One hyper-parameter of a variant, as its signature declares it."""

    name: str
    annotation: Any
    default: Any
    required: bool


@dataclass(frozen=True)
class Declaration:
    """What the source text says of a variant: its module, its hyper-parameters, the keywords of its decorator."""

    module: str
    options: tuple[Option, ...]
    facts: Mapping[str, Any]


class Registry(Generic[Entry]):
    """The variants of one kind, all registered in `home`.

    Args:
        kind: what a variant is called in messages ("head aggregation").
        home: dotted name of the module that registers them, or of a package: each module in it may register some.
            A module is imported when one of its variants is first used.
    """

    def __init__(self, kind: str, home: str) -> None:
        self.kind, self.home = kind, home
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, **facts: Any) -> Callable[[Entry], Entry]:
        """Decorator: enter a function or class under `name`; `facts` are literals, read from the text by `facts_of`."""

        def enter(entry: Entry) -> Entry:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> tuple[str, ...]:
        """All declared names, without importing the variants."""
        return tuple(self.declared())

    def __getitem__(self, name: str) -> Entry:
        """The entry called `name`. Raises ValueError naming what is allowed."""
        found = _declared(self.home).get(name)
        if found is None:
            raise ValueError(f"unknown {self.kind} {name!r}; allowed: {', '.join(self.names())}")
        importlib.import_module(found.module)
        return self._entries[name]

    def bind(self, name: str, options: dict[str, Any]) -> Callable[..., Any]:
        """The entry with its hyper-parameters filled in."""
        return partial(self[name], **options)

    def declared(self) -> dict[str, tuple[Option, ...]]:
        """Name -> hyper-parameters, read from the source text of `home`."""
        return {name: found.options for name, found in _declared(self.home).items()}

    def facts_of(self, name: str) -> Mapping[str, Any]:
        """What the decorator of `name` states beside it, read from the source text."""
        return _declared(self.home)[name].facts


@cache
def _declared(home: str) -> dict[str, Declaration]:
    found: dict[str, Declaration] = {}
    for module, source in _sources(home):
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for name, facts in filter(None, map(_registered, node.decorator_list)):
                    found[name] = Declaration(module, tuple(_options(node)), facts)
    return found


def _sources(home: str) -> list[tuple[str, Path]]:
    """(module, file) of a module, or of every module in a package, by name."""
    parent, _, stem = home.rpartition(".")
    spec = importlib.util.find_spec(parent)
    assert spec is not None
    assert spec.submodule_search_locations, f"{parent} is not a package"
    folder = Path(spec.submodule_search_locations[0], stem)
    if folder.is_dir():
        return [(f"{home}.{path.stem}", path) for path in sorted(folder.glob("[!_]*.py"))]
    return [(home, folder.with_suffix(".py"))]


def _registered(decorator: ast.expr) -> tuple[str, dict[str, Any]] | None:
    """(name, facts) of a decorator that registers."""
    match decorator:
        case ast.Call(func=ast.Attribute(attr="register"), args=[ast.Constant(value=str(name))], keywords=facts):
            return name, {fact.arg: ast.literal_eval(fact.value) for fact in facts if fact.arg}
    return None


def _options(node: ast.FunctionDef | ast.ClassDef) -> list[Option]:
    if isinstance(node, ast.ClassDef):
        methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        if "__init__" not in methods:
            return []
        node = methods["__init__"]
    options = []
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        assert argument.annotation is not None, f"{node.name}: option {argument.arg} has no type"
        options.append(
            Option(
                name=argument.arg,
                annotation=_evaluate(argument.annotation),
                default=None if default is None else ast.literal_eval(default),
                required=default is None,
            )
        )
    return options


def _evaluate(annotation: ast.expr) -> Any:
    """The type an annotation of an option names: builtins, typing's and pydantic's Field, nothing else."""
    from pydantic import Field

    names = {name: getattr(typing, name) for name in ("Annotated", "Literal")} | {"Field": Field}
    text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    if text == "Recipe":  # the one section that is an option: of an evaluation that trains
        names["Recipe"] = importlib.import_module("attndistill.training.recipe").Recipe
    return eval(str(text), {**names})

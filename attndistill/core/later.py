"""torch's compiler and distributed tensors, and timm's hundred models, loaded when somebody uses them: seldom here.

torch's optimizers, accelerate, torchvision and timm import them to ask one question, which takes a third of what a
stage needs to start. As long as they are not loaded, nothing was compiled and nothing distributed, so the answers are
known: there is no compiling to switch off, no graph to break, no module is a compiled one. Whoever asks for more, or
imports a part, gets the package itself. timm's packages import all they have; their parts can be had without that.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_COMPILER, _TENSORS = "torch._dynamo", "torch.distributed.tensor"


def import_later() -> None:
    """In this process, from now on: for programs of our own, since it changes libraries for everybody."""
    if _COMPILER in sys.modules or _TENSORS in sys.modules:
        return
    compiler = _Later(_COMPILER, disable=_as_it_is, graph_break=_nothing)
    compiler.part("config")  # timm's Kron sets a limit there
    compiler.part("eval_frame", OptimizedModule=_kind(f"{_COMPILER}.eval_frame", "OptimizedModule"))
    compiler.part("utils", is_compile_supported=_is_compile_supported)
    if find_spec("timm") is not None:
        for package in ("timm", "timm.models"):
            _open_later(package)
    for module in (compiler, compiler.utils, _Later(_TENSORS, DTensor=_kind(_TENSORS, "DTensor"))):
        sys.modules[module.__name__] = module
    sys.meta_path.insert(0, _Finder)


class _Unopened(ModuleType):
    """A package whose parts can be imported, and whose own code runs when it is asked for what no loaded part has."""

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return importlib.import_module(f"{self.__name__}.version").__version__
        if name.startswith("__"):
            raise AttributeError(name)
        for part in [module for key, module in sys.modules.items() if key.startswith(f"{self.__name__}._")]:
            found = vars(part).get(name)
            if getattr(found, "__module__", None) == part.__name__:
                return found
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]  # no more than a module from now on
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _open_later(package: str) -> None:
    spec = find_spec(package)
    if package in sys.modules or spec is None:
        return
    module = sys.modules[package] = module_from_spec(spec)
    module.__class__ = _Unopened
    parent, _, name = package.rpartition(".")
    if parent:
        setattr(sys.modules[parent], name, module)


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    return _as_it_is if function is None else function


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _is_compile_supported(device: Any) -> Any:
    return _load(_COMPILER).utils.is_compile_supported(device)


def _kind(module: str, name: str) -> type:
    """A class whose instances are those of the class itself, once that is there."""

    class Kind(type):
        def __instancecheck__(cls, thing: object) -> bool:
            there = sys.modules.get(module)
            return there is not None and not isinstance(there, _Later) and isinstance(thing, getattr(there, name))

    return Kind(name, (), {})


class _Later(ModuleType):
    """Stands for a package, or for a part of one, until it is asked for what it does not know."""

    def __init__(self, name: str, **known: Any) -> None:
        super().__init__(name)
        vars(self).update(known, __path__=[])  # an empty path: parts are asked of `_Finder`
        self.known = {*vars(self), "known"}

    def part(self, name: str, **known: Any) -> None:
        setattr(self, name, _Later(f"{self.__name__}.{name}", **known))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _load(_COMPILER if self.__name__.startswith(_COMPILER) else _TENSORS)
        return getattr(importlib.import_module(self.__name__), name)


def _load(package: str) -> Any:
    """The package itself, in the place of what stood for it."""
    stood = sys.modules[package]
    if isinstance(stood, _Later):
        for name in [name for name, module in sys.modules.items() if module is stood or module in vars(stood).values()]:
            del sys.modules[name]
        importlib.import_module(package)
        if package == _COMPILER:
            for key in set(vars(stood.config)) - stood.config.known:
                setattr(sys.modules[package].config, key, getattr(stood.config, key))
    return sys.modules[package]


class _Finder:
    """Loads a package where a part of it is imported."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        package = next((one for one in (_COMPILER, _TENSORS) if name.startswith(f"{one}.")), "")
        if not package or not isinstance(sys.modules.get(package), _Later):
            return None
        path = _load(package).__path__
        module = sys.modules.get(name)
        if module is None:
            return PathFinder.find_spec(name, path, target)
        # by the spec that it came with, the import system would run it again
        spec = vars(module)["__spec__"] = ModuleSpec(name, _Loaded(module.__spec__))
        return spec


class _Loaded(Loader):
    """Finds a part that came with its package where it is."""

    def __init__(self, spec: ModuleSpec | None) -> None:
        self._spec = spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__spec__"] = self._spec

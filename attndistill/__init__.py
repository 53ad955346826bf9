"""attndistill: attention distillation of self-supervised vision transformers, with figures that can be rebuilt.

Nothing heavy is imported here: `attndistill --help` must answer at once. The library's functions
(`attndistill.library`) are imported when they are first used.
"""

from typing import Any

__version__ = "0.1.0"

_LIBRARY = {
    **dict.fromkeys(
        ("array_images", "build_objective", "configure", "distil", "embed", "evaluate", "load_teacher"),
        "attndistill.library",
    ),
    "export": "attndistill.handover.exporting",
}


def __getattr__(name: str) -> Any:
    if name not in _LIBRARY:
        raise AttributeError(f"module 'attndistill' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LIBRARY[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_LIBRARY]

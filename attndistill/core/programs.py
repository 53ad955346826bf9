"""Processes of our own that run one function of this package."""

import sys
from pathlib import Path

# The package's folder is on the path while the package is found, and not while what it needs is: a folder named mlflow
# beside it is not the library. As a word, not in PYTHONPATH: a path may hold a colon.
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import attndistill; sys.path.pop(0); "
    "from attndistill.core.process import begin_process, collect_from_here; begin_process(); "
    "from {module} import {function}; collect_from_here(); {function}(sys.argv[1:])"
)


def program(module: str, function: str, *arguments: str) -> list[str]:
    """The words that start `module.function([arguments])` in a Python of its own."""
    package = str(Path(__file__).parents[2])
    return [sys.executable, "-P", "-c", _START.format(module=module, function=function), package, *arguments]

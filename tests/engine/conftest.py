"""The toy experiment, as one process runs it and as an engine's workers do."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from engine_project import EngineProject, write


@pytest.fixture
def toy(tmp_path_factory) -> Callable[..., EngineProject]:
    """Makes a toy project of one row and two seeds, with nothing run yet."""

    def make(**settings: object) -> EngineProject:
        root = tmp_path_factory.mktemp("toy")
        write(root, settings)
        return EngineProject(root)

    return make


@dataclass(frozen=True)
class Plain:
    """What one process makes of the toy project: digests of files, how long it took, and every module it imported."""

    made: dict[str, str]
    seconds: float
    imported: set[str]


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Plain:
    project = EngineProject(tmp_path_factory.mktemp("plain"))
    write(project.root, {})
    start = time.monotonic()
    process = project.start("pipeline", PYTHONPROFILEIMPORTTIME="1")
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed[-2000:]
    lines = [line for line in printed.splitlines() if line.startswith("import time:")]
    return Plain(project.made(), time.monotonic() - start, {line.rpartition("|")[2].strip() for line in lines})

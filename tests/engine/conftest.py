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
    """What one process makes of the toy project: digests of files, and how long it took."""

    made: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Plain:
    project = EngineProject(tmp_path_factory.mktemp("plain"))
    write(project.root, {})
    start = time.monotonic()
    project.run("pipeline")
    return Plain(project.made(), time.monotonic() - start)

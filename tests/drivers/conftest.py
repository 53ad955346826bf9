"""A copy of the project, taught once a session."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from real_project import attndistill, clone, result, run


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which data, teacher and targets exist, so that a row can be distilled."""
    settings = {"seeds": [0], "runtime": {"tracking": False, "threads": 1}, "distill": {"recipe": {"epochs": 3}}}
    directory = clone(tmp_path_factory.mktemp("taught"), settings)
    for stage in (["prepare"], ["pretrain", "--model", "teacher"], ["targets"]):
        attndistill(directory, *stage)
    return directory


@pytest.fixture
def student_of(taught: Path) -> Sequence:
    """Distil the AttnDistill row; returns the bytes of its weights and of its curves."""

    def distil(*settings: str, command: Sequence[str] = ("python",)) -> tuple[bytes, bytes]:
        run(taught, *command, "-m", "attndistill", "distill", "--row", "attndistill", *settings)
        return result(taught)

    return distil

"""Tests check the shapes and types that the numerical packages promise, run on one thread and are seeded."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook
from shared import FOLDER

# Packages with plain protocols (data, targets) and pydantic models (config) cannot be checked this way.
CHECKED = [f"attndistill.{name}" for name in ("core", "losses", "models", "tasks")]
install_import_hook(CHECKED, "beartype.beartype")


def pytest_configure(config: pytest.Config) -> None:
    """A folder that all processes of this session share, as they share the environment."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix="attndistill-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts other programs takes longest and comes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("drivers") is None)


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """One thread and a fixed seed, for tests that use torch; others do not pay for its import."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of a Chromium. Without one its tests are skipped, but not under CI, where they have to run."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("neither chromium nor google-chrome is on the PATH")
    return found


@pytest.fixture
def killed_at() -> Callable[[int, Callable[[], object]], bool]:
    """(event, work) -> whether a process that does the work was killed before its nth call to the file system."""

    def killed(event: int, work: Callable[[], object]) -> bool:
        child = os.fork()
        if child == 0:
            left = event

            def count(name: str, _: object) -> None:
                nonlocal left
                if name.startswith(("os.", "open", "shutil.", "fcntl.")):
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            code = 1
            with suppress(BaseException):
                work()
                code = 0
            os._exit(code)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        return status == signal.SIGKILL

    return killed

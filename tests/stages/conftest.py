"""A toy project whose stages run in this process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attndistill.experiments import open_experiment
from attndistill.models.storage import save_model
from attndistill.models.vit import build_vit
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item
from attndistill.stages.layout import Layout

ROOT = Path(__file__).parents[2]
SETTINGS = {"runtime.tracking": False, "runtime.processes": 1, "seeds": [0], "data.set.test_fraction": 0.8}


@pytest.fixture(scope="session")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict], Path]:
    """Makes a project with prepared data and an untrained teacher, by these settings."""

    def make(settings: dict) -> Path:
        root = tmp_path_factory.mktemp("project")
        shutil.copy(ROOT / "params.yaml", root)
        shutil.copytree(ROOT / "experiments/smoke", root / "experiments/smoke")
        experiment = open_experiment(root / "experiments/smoke")
        run_stage(experiment, STAGES["prepare"], Item(), settings)
        sizes = experiment.config("", {}).teacher.sizes()
        save_model(
            Layout(root / "experiments/smoke", "smoke").weights("teacher", 0),
            build_vit(32, 0, **sizes),
            image_size=32,
            vit=sizes,
        )
        return root

    return make


@pytest.fixture(scope="session")
def taught_root(untaught: Callable[[dict], Path]) -> Path:
    """Prepared data, an untrained teacher and its answers to two views."""
    root = untaught(SETTINGS)
    run_stage(open_experiment(root / "experiments/smoke"), STAGES["targets"], Item(), SETTINGS)
    return root


@pytest.fixture
def taught(taught_root: Path, tmp_path: Path) -> Path:
    """A copy that shares nothing with other tests."""
    return Path(shutil.copytree(taught_root, tmp_path / "project"))


@pytest.fixture
def stage(taught: Path) -> Callable[..., None]:
    """Run a stage of the copy: name, item, settings."""

    def run(name: str, item: str = "", **settings: object) -> None:
        run_stage(open_experiment(taught / "experiments/smoke"), STAGES[name], Item(item), SETTINGS | settings)

    return run

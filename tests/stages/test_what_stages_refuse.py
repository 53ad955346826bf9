"""What a stage refuses before it computes: inputs that are not those its configuration speaks of."""

import shutil
from pathlib import Path

import pytest
import torch

from attndistill.experiments import open_experiment
from attndistill.models.storage import save_model
from attndistill.models.vit import build_vit
from attndistill.pipeline import run_stage
from attndistill.stages.layout import Layout
from attndistill.stages.table import STAGES

ROOT = Path(__file__).parents[2]
SETTINGS = {"runtime.tracking": False, "runtime.processes": 1, "seeds": [0], "data.set.test_fraction": 0.8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, an untrained teacher and its answers to two views."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(ROOT / "experiments/smoke", root / "experiments/smoke")
    stage(root, "prepare")
    sizes = open_experiment(root, "experiments/smoke").config("", {}).teacher.sizes()
    save_model(Layout(root, "smoke").weights("teacher", 0), build_vit(32, 0, **sizes), image_size=32, vit=sizes)
    stage(root, "targets")
    return root


def stage(root: Path, name: str, item: str = "", **settings: object) -> None:
    run_stage(open_experiment(root, "experiments/smoke"), STAGES[name], item, SETTINGS | settings)


def test_more_views_than_the_cache_holds_are_refused_naming_both(root):
    with pytest.raises(ValueError, match=r"targets.views is 3, but .*/targets holds 2: run `targets` again, or set "):
        stage(root, "distill", "attndistill", **{"targets.views": 3})
    assert not list((root / ".work").glob("distill-*"))


def test_fewer_views_than_the_cache_holds_are_the_first_of_them(root):
    stage(root, "distill", "attndistill", **{"targets.views": 1})


@pytest.mark.parametrize(("name", "item"), [("probe", "teacher"), ("targets", ""), ("distill", "attndistill")])
def test_a_model_of_another_image_size_is_refused_before_torch_is_asked(root, name, item):
    with pytest.raises(
        ValueError, match=r"pretrained/teacher was made for images of 32 px, and views.image_size is 16"
    ):
        stage(root, name, item, **{"views.image_size": 16})


def test_a_device_that_torch_does_not_see_is_refused_with_those_it_sees(root, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^runtime.device is mps, but torch sees no such device; allowed here: auto"):
        stage(root, "probe", "teacher", **{"runtime.device": "mps"})

"""A folder of unlabelled photos, small settings, and a released teacher to distil."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer

ROOT = Path(__file__).parents[2]
SMALL = {
    "views.image_size": 32,
    "student": {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.0, "position": "sincos"},
    "targets.views": 2,
    "distill.recipe.epochs": 2,
    "distill.recipe.batch_size": 16,
    "distill.recipe.warmup_epochs": 0,
    "runtime.tracking": False,
    "runtime.processes": 1,
    "runtime.speeds": False,
}


def make_photos(folder: Path, count: int = 60) -> Path:
    """Digits as photos of several sizes, partly in folders of folders."""
    for number, digit in enumerate(load_digits().images[:count]):
        place = folder / ("" if number % 3 else f"trip {number % 2}/day")
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((digit * 15).astype(np.uint8)).convert("RGB")
        picture.resize((40 + number % 5, 36)).save(place / f"photo-{number:03d}.{'png' if number % 2 else 'jpg'}")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def write_photos() -> Callable[[Path, int], Path]:
    return make_photos


@pytest.fixture(scope="session")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file laid out as DINO's, of a teacher with random weights."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0)
    path = tmp_path_factory.mktemp("teacher") / "dino.pth"
    torch.save(vit.state_dict(), path)
    return path


@pytest.fixture
def small() -> dict[str, object]:
    """Settings under which a student of the photos trains in a second."""
    return {key: value for key, value in SMALL.items() if key != "student"}


@pytest.fixture
def project(tmp_path: Path, photos: Path, dino: Path) -> Callable[..., Path]:
    """Makes an experiment on the photos: rows.yaml, and params.yaml with these settings."""
    from ruamel.yaml import YAML

    from attndistill.config import nested

    def make(**settings: object) -> Path:
        folder = tmp_path / "mine"
        folder.mkdir()
        base = {
            **SMALL,
            "seeds": [0],
            "data.set": {"name": "photos", "root": str(photos)},
            "teacher.source": {"name": "checkpoint", "path": str(dino)},
            "probe.agreement.neighbours": 5,
            "pretrain.recipe": {"epochs": 1, "batch_size": 16, "warmup_epochs": 0},
        }
        YAML().dump(nested({**base, **settings}), folder / "params.yaml")
        (folder / "rows.yaml").write_text("rows:\n  attndistill:\n    label: AttnDistill\n    set: {}\n")
        return folder

    return make


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files, symbolic links as links."""
    place = tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "attndistill", "params.yaml", "pyproject.toml", "README.md", "LICENSE"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        (place / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        source = ROOT / name
        if source.is_symlink():
            (place / "src" / name).symlink_to(source.readlink())
        else:
            (place / "src" / name).write_bytes(source.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        place / "dist",
        ".",
    ]
    done = subprocess.run(command, cwd=place / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next((place / "dist").glob("*.whl"))

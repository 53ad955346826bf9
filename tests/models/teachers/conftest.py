"""Files that hold the same small teacher in every layout."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layouts import VIT, backbone, layouts
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from attndistill.models.projector import Projector, Student
from attndistill.models.storage import save_model
from attndistill.models.vit import build_vit


@pytest.fixture(scope="session")
def teacher() -> VisionTransformer:
    return backbone()


@pytest.fixture
def saved(tmp_path: Path, teacher: VisionTransformer) -> Callable[[str], Path]:
    """Name of a layout -> a file that holds the teacher in it."""

    def save(layout: str) -> Path:
        path = tmp_path / f"{layout.replace(' ', '-').replace(',', '')}.pth"
        torch.save(layouts()[layout](teacher.state_dict()), path)
        return path

    return save


@pytest.fixture
def official_student(tmp_path: Path, teacher: VisionTransformer) -> Path:
    """A checkpoint of the published code: P with a LayerNorm first, `norm` of the teacher's width, `student_norm`."""
    state = {name: tensor for name, tensor in teacher.state_dict().items() if not name.startswith("norm.")}
    wide = {"norm.weight": torch.ones(96), "norm.bias": torch.zeros(96)}
    own = {"student_norm.weight": torch.ones(64), "student_norm.bias": torch.zeros(64)}
    proj = {"proj.0.weight": torch.ones(64), "proj.1.weight": torch.ones(128, 64)}
    path = tmp_path / "official.pth"
    args = argparse.Namespace(lr=1.0)
    torch.save(
        {"model": {**state, **wide, **own, **proj}, "optimizer": {}, "epoch": 3, "scaler": {}, "args": args}, path
    )
    return path


@pytest.fixture
def own_student(tmp_path: Path) -> tuple[Path, Student]:
    """A student stored by this package."""
    student = Student(build_vit(32, 1, **VIT), Projector(64, 96, 2, seed=1))
    save_model(tmp_path / "own", student, image_size=32, vit=VIT)
    return tmp_path / "own", student


@pytest.fixture
def timm_file(tmp_path: Path) -> Callable[..., Path]:
    """A model's weights under timm's names as safetensors."""

    def save(model: torch.nn.Module) -> Path:
        path = tmp_path / "timm.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
        return path

    return save

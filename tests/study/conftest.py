"""A toy project in which data, teacher and targets exist."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import postgresql
import pytest
from ruamel.yaml import YAML
from toy_project import ROOT, SETTINGS, Project

from attndistill.config import overlay, read_yaml
from attndistill.experiments import open_experiment
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    small = overlay(read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / "experiments/smoke/params.yaml"))
    YAML().dump(overlay(small, SETTINGS), root / "params.yaml")
    (root / "rows.yaml").write_text(f"name: digits\n{(ROOT / 'experiments/smoke/rows.yaml').read_text()}")
    experiment = open_experiment(root)
    for stage, item in (("prepare", ""), ("pretrain", "teacher"), ("targets", "")):
        run_stage(experiment, STAGES[stage], Item(item), {"pretrain.recipe.epochs": 2})
    return root


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Project:
    """A copy that shares nothing with other tests."""
    root = tmp_path / "project"
    shutil.copytree(prepared, root)
    return Project(root)


@pytest.fixture
def database() -> Iterator[str]:
    """The address of a PostgreSQL server of its own."""
    lacking = postgresql.lacks()
    if lacking is not None:
        (pytest.fail if postgresql.expected() else pytest.skip)(lacking)
    with postgresql.server() as address:
        yield address

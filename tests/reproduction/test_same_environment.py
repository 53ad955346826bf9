"""`--environment same`: a fresh virtual environment of the run's own requirements, and what it refuses."""

import platform
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from wheels import write_wheel

from attndistill.reproduction.recipe import Recipe
from attndistill.reproduction.workplace import fresh_environment

TOOLS = [tool for tool in ("uv", "pip") if tool == "pip" or shutil.which(tool)]


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch) -> Path:
    """No index: a folder of wheels, for pip and for uv."""
    for name, value in (("PIP_NO_INDEX", "1"), ("UV_NO_INDEX", "1")):
        monkeypatch.setenv(name, value)
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.setenv(name, str(tmp_path / "shelf"))
    write_wheel(tmp_path / "shelf", "toy", "1.5")
    write_wheel(tmp_path / "shelf", "toy", "2.0")
    return tmp_path / "shelf"


def recipe(*requirements: str, python: str = platform.python_version()) -> Recipe:
    run = SimpleNamespace(requirements=requirements, environment={"python": python})
    return Recipe("run 12345678", "prepare", "ab" * 20, b"", None, "digits", ["prepare"], {}, {}, run)


@pytest.fixture(params=TOOLS)
def tool(request, monkeypatch) -> str:
    if request.param == "pip":
        monkeypatch.setattr("attndistill.reproduction.workplace.shutil.which", lambda name: None)
    return request.param


def test_the_runs_own_versions_are_installed_and_none_of_todays(tool, tmp_path):
    python = fresh_environment(recipe("toy==1.5", "attndistill==0.1.0"), tmp_path / "environment")
    program = (
        "import importlib.metadata as m, toy; print(toy.__version__, *(d.metadata['Name'] for d in m.distributions()))"
    )
    # elsewhere than in this folder, where a build may have left its metadata
    done = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = done.stdout.split()
    assert said[0] == "1.5"
    assert set(said[1:]) <= {"toy", "pip", "setuptools"}


@pytest.mark.slow
def test_a_version_that_nobody_has_is_named_in_one_line(tool, tmp_path):
    with pytest.raises(ValueError, match=r"the run's environment cannot be made \(`.*`\): .*toy") as said:
        fresh_environment(recipe("toy==3.1"), tmp_path / "environment")
    assert "\n" not in str(said.value)


def test_a_run_without_requirements_names_the_other_way(tmp_path):
    with pytest.raises(ValueError, match=r"no requirements are recorded; --environment current takes today's"):
        fresh_environment(recipe("attndistill==0.1.0"), tmp_path / "environment")
    assert not (tmp_path / "environment").exists()


def test_another_python_is_asked_of_uv(tmp_path, monkeypatch):
    monkeypatch.setattr("attndistill.reproduction.workplace.shutil.which", lambda name: None)
    with pytest.raises(
        ValueError, match=rf"the run had Python 3.7.1, and this is {platform.python_version()}: install uv"
    ):
        fresh_environment(recipe("toy==1.5", python="3.7.1"), tmp_path / "environment")

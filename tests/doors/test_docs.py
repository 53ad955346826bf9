"""The pages that a new user follows are run as they stand, with the installed wheel."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def desk(tmp_path: Path, write_photos: Callable[[Path, int], Path], dino: Path, wheel: Path) -> Path:
    """A folder with photos/, dino.pth, and the wheel's content as the command `attndistill`."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    write_photos(tmp_path / "photos", 100)
    (tmp_path / "dino.pth").write_bytes(dino.read_bytes())
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/attndistill"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m attndistill "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(desk: Path, page: str, kind: str, *command: str) -> subprocess.CompletedProcess:
    """All blocks of a page as one script."""
    blocks = re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert len(blocks) > 2
    path = f"{desk / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(desk / "site"), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [*command, "\n".join(blocks)], cwd=desk, env=os.environ | own, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.drivers
def test_the_tutorial_goes_from_photos_to_a_student_in_timm(desk):
    said = run(desk, "tutorial.md", "sh", "bash", "-e", "-c").stdout.splitlines()
    assert "192" in said
    assert "features.parquet: features of 100 images" in said
    for made in ("student/README.md", "outputs/report/index.html", "nearest.png"):
        assert (desk / "mine" / made).exists()
    answer = json.loads((desk / "mine/answer.json").read_text())
    assert np.array(answer["predictions"]).shape == (1, 192)


@pytest.mark.drivers
def test_the_library_page_runs_as_it_stands(desk):
    run(desk, "library.md", "python", sys.executable, "-c")
    assert (desk / "student/config.json").exists()

"""What the wheel holds, and a project beside it through an upgrade: nothing of the repository is there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.drivers
def test_the_wheel_holds_the_defaults_as_a_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("attndistill/params.yaml") == (ROOT / "params.yaml").read_bytes()
        beside = {f"attndistill/report/page.{kind}" for kind in ("html.j2", "js")}
        assert {"attndistill/py.typed", *beside} <= set(archive.namelist())


@pytest.mark.drivers
def test_an_upgrade_of_the_wheel_makes_the_stages_stale_that_compute_with_what_changed(wheel, photos, dino, tmp_path):
    site, mine = tmp_path / "site", tmp_path / "mine"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "ATTNDISTILL_"))}
    kept |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"

    def run(folder: Path, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=kept, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    where = run(tmp_path, "-c", "import attndistill; print(attndistill.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    run(tmp_path, "-m", "attndistill", "new", "mine", "--images", str(photos), "--teacher", str(dino))
    run(mine, "-m", "dvc", "repro", "-q", "pretrain_teacher")
    assert "up to date" in run(mine, "-m", "dvc", "status", "pretrain_teacher", "prepare")
    code = site / "attndistill/stages/released.py"  # other code, and nothing says so before `drivers`
    code.write_text(code.read_text() + "\n_UPGRADED = 1\n")
    run(mine, "-m", "attndistill", "drivers")
    status = run(mine, "-m", "dvc", "status", "pretrain_teacher", "prepare")
    assert "code.pretrain" in status
    assert "code.prepare" not in status

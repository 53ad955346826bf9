"""From the wheel in an empty folder to features by timm alone: nothing of the repository is there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from attndistill.config import overlay, read_yaml

ROOT = Path(__file__).parents[2]
QUICK = {
    "student": {"embed_dim": 24, "depth": 1, "num_heads": 1},
    "targets": {"views": 2},
    "distill": {"recipe": {"epochs": 2, "batch_size": 16, "warmup_epochs": 0}},
    "runtime": {"tracking": False, "workers": 0, "threads": 1},
}
TIMM = """
import timm, torch
model = timm.create_model("local-dir:student", pretrained=True).eval()
print(tuple(model(torch.zeros(1, 3, 32, 32)).shape))
"""


@pytest.fixture(scope="module")
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


@pytest.mark.drivers
def test_the_wheel_holds_the_defaults_as_a_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("attndistill/params.yaml") == (ROOT / "params.yaml").read_bytes()
        beside = {f"attndistill/report/page.{kind}" for kind in ("html.j2", "js")}
        assert {"attndistill/py.typed", *beside} <= set(archive.namelist())


@pytest.mark.drivers
def test_photos_become_a_student_in_timm_with_the_installed_wheel(wheel, photos, dino, tmp_path):
    from ruamel.yaml import YAML

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
    YAML().dump(overlay(read_yaml(mine / "params.yaml"), QUICK), mine / "params.yaml")
    run(mine, "-m", "attndistill", "drivers")
    run(mine, "-m", "dvc", "repro", "-q", "distill@attndistill")
    assert "up to date" in run(mine, "-m", "dvc", "status", "distill@attndistill", "targets")
    run(mine, "-m", "attndistill", "export", "attndistill", "--to", "student", "--formats", "timm")
    assert run(mine, "-c", TIMM).strip() == "(1, 24)"
    code = site / "attndistill/targets.py"  # an upgrade: other code, and nothing says so before `drivers`
    code.write_text(code.read_text() + "\n_UPGRADED = 1\n")
    run(mine, "-m", "attndistill", "drivers")
    status = run(mine, "-m", "dvc", "status", "distill@attndistill", "targets", "prepare")
    assert "code.targets" in status
    assert "code.prepare" not in status

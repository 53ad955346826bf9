import subprocess
import sys

import pytest

pytestmark = pytest.mark.drivers

STAGE = """
import sys
from pathlib import Path
from attndistill.tracking import Recorder

stage, *inputs = sys.argv[1:]
with Recorder.open(root=Path.cwd(), command=stage, name=stage, experiment="digits", config={}, argv=sys.argv,
                   inputs=[Path(path) for path in inputs]):
    Path(f"{stage}-out").mkdir()
    Path(f"{stage}-out", "result.txt").write_text(stage)
    Path("results").mkdir(exist_ok=True)
    Path("results", f"{stage}.json").write_text("{}")
"""
PIPELINE = f"""
stages:
  prepare:
    cmd: {sys.executable} stage.py prepare
    outs: [prepare-out]
    metrics: [results/prepare.json: {{cache: false}}]
  distill:
    cmd: {sys.executable} stage.py distill prepare-out
    deps: [prepare-out]
    outs: [distill-out]
"""


def test_under_dvc_the_code_is_clean_and_the_inputs_are_verified(project, git, runs):
    def dvc(*words: str) -> None:
        command = [sys.executable, "-m", "dvc", *words]
        finished = subprocess.run(command, cwd=project.root, env=project.environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr

    dvc("init", "-q")
    (project.root / "stage.py").write_text(STAGE)
    (project.root / "dvc.yaml").write_text(PIPELINE)
    (project.root / ".gitignore").open("a").write("/prepare-out\n/distill-out\n")
    git("add", ".")
    git("commit", "-qm", "pipeline")
    dvc("repro")
    prepare, distill = sorted(runs(project.store), key=lambda run: run.info.start_time)
    assert prepare.data.tags["lineage.dirty"] == "no"
    assert prepare.data.tags["lineage.inputs_verified"] == "none"
    assert distill.data.tags["lineage.dirty"] == "no"  # what prepare made, dvc.lock and results/ are no change of code
    assert distill.data.tags["lineage.inputs_verified"] == "yes"
    assert distill.data.tags["lineage.input.prepare-out"].endswith(".dir")

    (project.root / "stage.py").write_text(STAGE + "# another\n")
    (project.root / "prepare-out" / "result.txt").chmod(0o644)
    (project.root / "prepare-out" / "result.txt").write_text("touched behind dvc\n")
    (project.root / "distill-out").rename(project.root / "old")
    command = [sys.executable, "stage.py", "distill", "prepare-out"]
    subprocess.run(command, cwd=project.root, env=project.environment, check=True, timeout=120)
    newest = max(runs(project.store), key=lambda run: run.info.start_time)
    assert newest.data.tags["lineage.dirty"] == "yes"
    assert newest.data.tags["lineage.inputs_verified"].startswith("no: prepare-out (dvc.lock ")

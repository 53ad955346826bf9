"""kill -9 at every rename of every stage: started again, the same bytes in the whole project, and nothing left."""

import hashlib
import shutil
from pathlib import Path

import pytest
from killing import killed_at_rename

from attndistill.cli import main
from attndistill.experiments import open_experiment
from attndistill.handover import exporting, speed
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item

SETTINGS = {
    "runtime.tracking": False,
    "runtime.processes": 1,
    "runtime.checkpoint_seconds": 0,  # a checkpoint, and so a rename, at every update
    "seeds": [0],
    "data.set.test_fraction": 0.85,
    "pretrain.recipe.epochs": 1,
    "pretrain.recipe.warmup_epochs": 0,
    "distill.recipe.epochs": 1,
    "distill.recipe.warmup_epochs": 0,
    "probe.logistic.max_iterations": 20,
}
ROOT = Path(__file__).parents[2]
RUNS = [
    ("prepare", ""), ("pretrain", "teacher"), ("pretrain", "scratch"), ("targets", ""), ("distill", "attndistill"),
    ("probe", "teacher"), ("probe", "scratch"), ("probe", "attndistill"), ("attention", "teacher"),
    ("attention", "scratch"), ("attention", "attndistill"), ("report", ""), ("export", "attndistill"),
]  # fmt: skip
# the other models are pre-trained, probed and pictured by the code that these two and the row show
ALIKE, SHOWN = ("teacher", "scratch"), [("pretrain", "teacher"), ("attention", "teacher")]


def run(project: Path, name: str, item: str) -> None:
    folder = project / "experiments/smoke"
    if name == "export":
        words = [name, item, "--experiment", str(folder), "--to", str(folder / "exported"), "--formats", "timm"]
        with pytest.MonkeyPatch.context() as patch:
            one = speed.Speed(parameters=1, flops=1, images_a_second=1.0)
            patch.setattr(exporting, "measure_speeds", lambda *_: speed.Speeds(place="here", models=(one,)))
            assert main(words) == 0  # the card of two exports differs by the measured speed alone
    else:
        run_stage(open_experiment(folder), STAGES[name], Item(item), SETTINGS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A project in which every stage has run."""
    project = tmp_path_factory.mktemp("whole") / "project"
    project.mkdir()
    shutil.copy(ROOT / "params.yaml", project)
    shutil.copytree(
        ROOT / "experiments/smoke", project / "experiments/smoke", ignore=shutil.ignore_patterns("[!pr]*", "results")
    )
    settings = project / "experiments/smoke/rows.yaml"
    assert "attndistill" in settings.read_text()
    for name, item in RUNS:
        run(project, name, item)
    return project


def content(project: Path) -> dict[str, str]:
    """Every file of a project, hidden ones too, by the digest of its bytes."""
    return {
        path.relative_to(project).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(project.rglob("*"))
        if path.is_file()
    }


def outputs(project: Path, name: str, item: str) -> list[Path]:
    folder = project / "experiments/smoke"
    if name == "export":
        return [folder / "exported"]
    return STAGES[name].outputs(open_experiment(folder).layout, Item(item))


@pytest.mark.parametrize(("name", "item"), [one for one in RUNS if one[1] not in ALIKE or one in SHOWN])
def test_a_stage_killed_at_each_of_its_renames_ends_with_the_same_bytes_and_leaves_nothing(
    whole, tmp_path, record_property, name, item
):
    """Each restart is killed one rename later than the one before it, until one comes through."""
    project = Path(shutil.copytree(whole, tmp_path / "project", symlinks=True))
    expected = content(whole)
    for path in outputs(project, name, item):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    event = 1
    while killed_at_rename(event, run, project, name, item):
        event += 1
    assert event > 1, "nothing is renamed"
    record_property(f"killed: {name} {item}".strip(), event - 1)
    assert content(project) == expected

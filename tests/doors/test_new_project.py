"""`attndistill new`: a project that runs with the installed package, or one line and nothing."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attndistill.cli import main
from attndistill.config import read_yaml
from attndistill.experiments import open_experiment
from attndistill.pipeline import run_stage
from attndistill.projects import new_project
from attndistill.results import ProbeFile
from attndistill.stages import STAGES, Item

QUICK = {
    "student": {"embed_dim": 24, "depth": 1, "num_heads": 1, "patch_size": 8},
    "targets.views": 2,
    "distill.recipe.epochs": 2,
    "distill.recipe.warmup_epochs": 0,
    "runtime": {"tracking": False, "workers": 0, "threads": 1},
}


def test_a_new_project_has_the_sizes_of_its_teacher_and_distils_it(photos, dino, tmp_path):
    said = "\n".join(new_project(tmp_path / "mine", photos, teacher=str(dino), dvc=False))
    assert "photos    60: 54 to train on, 6 held out; shorter side 36 to 36 px" in said
    assert "dino.pth (dino_backbone)" in said
    assert "width 192, depth 12, 3 heads, patch 8, 32 px" in said
    experiment = open_experiment(tmp_path / "mine")
    config = experiment.config("attndistill", {})
    assert (config.views.image_size, config.teacher.embed_dim, config.teacher.patch_size) == (32, 64, 8)
    assert config.student.patch_size == 8
    for name, item in (("prepare", ""), ("pretrain", "teacher"), ("targets", ""), ("distill", "attndistill")):
        run_stage(experiment, STAGES[name], Item(item), QUICK)
    run_stage(experiment, STAGES["probe"], Item("attndistill"), QUICK)
    assert "agreement" in ProbeFile.read(experiment.layout.result("probes", "attndistill.json")).probes


def test_a_new_project_says_what_its_pipeline_costs_on_this_machine(photos, dino, tmp_path, capsys):
    words = ["new", str(tmp_path / "mine"), "--images", str(photos), "--teacher", str(dino), "--no-dvc"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^cost +(about [\d.]+ (seconds|minutes|hours)|under a second) on this machine", said, re.MULTILINE
    )


def test_a_project_without_dvc_has_no_files_of_it(photos, dino, tmp_path):
    new_project(tmp_path / "mine", photos, teacher=str(dino), dvc=False)
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert names == {"params.yaml", "rows.yaml", "MLproject", "README.md", ".gitignore", ".dvcignore"}
    assert "attndistill pipeline  " in (tmp_path / "mine/README.md").read_text()


def test_a_project_outside_of_the_repository_is_run_by_the_installed_package(photos, dino, tmp_path):
    new_project(tmp_path / "mine", photos, teacher=str(dino))
    stages = read_yaml(tmp_path / "mine/dvc.yaml")["stages"]
    assert stages["prepare"]["cmd"] == "python -m attndistill prepare"
    watched = stages["distill"]["do"]
    assert not any("attndistill/" in dep for dep in watched["deps"])
    assert watched["params"][0]["attndistill.lock"][0] == "code.distill"
    assert "outputs/pretrained/teacher" in stages["probe"]["do"]["deps"]
    lock = read_yaml(tmp_path / "mine/attndistill.lock")
    assert set(lock["code"]) == set(STAGES)
    assert (tmp_path / "mine/.dvc/dvc-plots.html").is_file()
    assert "html_template = dvc-plots.html" in (tmp_path / "mine/.dvc/config").read_text()
    assert (tmp_path / "mine/.git").is_dir()
    listed = subprocess.run(["git", "status", "--short"], cwd=tmp_path / "mine", capture_output=True, text=True).stdout
    assert "outputs" not in listed


def test_a_project_inside_a_git_repository_makes_no_second_one(photos, dino, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    new_project(tmp_path / "mine", photos, teacher=str(dino))
    assert not (tmp_path / "mine/.git").exists()
    assert (tmp_path / "mine/.dvc").is_dir()


def test_a_stage_that_runs_with_other_code_than_the_lock_says_so(photos, dino, tmp_path, capsys):
    new_project(tmp_path / "mine", photos, teacher=str(dino))
    lock = tmp_path / "mine/attndistill.lock"
    experiment = open_experiment(tmp_path / "mine")
    run_stage(experiment, STAGES["prepare"], Item(), QUICK)
    assert "attndistill.lock" not in capsys.readouterr().err
    lock.write_text(lock.read_text().replace("  prepare: ", "  prepare: 0"))
    run_stage(experiment, STAGES["prepare"], Item(), QUICK)
    assert "run `attndistill code`" in capsys.readouterr().err


def test_without_a_teacher_one_is_pretrained_at_sizes_that_fit_the_photos(photos, tmp_path):
    new_project(tmp_path / "mine", photos, student="vit_small", dvc=False)
    config = open_experiment(tmp_path / "mine").config("", {})
    assert config.teacher.source is None
    assert (config.views.image_size, config.teacher.patch_size, config.teacher.embed_dim) == (36, 4, 384)
    assert config.student.embed_dim == 384


def test_a_timm_name_is_a_teacher_whose_weights_are_fetched_later(photos, tmp_path):
    said = new_project(tmp_path / "mine", photos, teacher="vit_small_patch16_224.dino", dvc=False)
    assert "fetched when it is first needed" in said[1]
    config = open_experiment(tmp_path / "mine").config("", {})
    assert (config.views.image_size, config.teacher.patch_size, config.teacher.embed_dim) == (224, 16, 384)
    assert config.teacher.source.timm_name == "vit_small_patch16_224.dino"


def test_a_list_of_files_and_a_folder_with_other_files_make_projects(photos, dino, tmp_path):
    names = sorted(str(path) for path in photos.rglob("photo-00*.*"))
    (tmp_path / "list.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match="lies outside of"):
        new_project(tmp_path / "listed", tmp_path / "list.txt", teacher=str(dino), dvc=False)
    (photos / "list.txt").write_text("\n".join(names))
    try:
        new_project(tmp_path / "listed", photos / "list.txt", teacher=str(dino), dvc=False)
        said = new_project(tmp_path / "mixed", photos, teacher=str(dino), dvc=False)
    finally:
        (photos / "list.txt").unlink()
    listed, mixed = (open_experiment(tmp_path / name).config("", {}) for name in ("listed", "mixed"))
    assert listed.data.set.list_file == str(photos / "list.txt")
    assert mixed.data.on_bad_image == "skip"
    assert "1 other files are left out (list.txt)" in said[0]


def few(tmp_path: Path, count: int, side: int = 32) -> Path:
    folder = tmp_path / f"few-{count}-{side}"
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "{empty}"], "has no images; allowed: 3 or more"),
        (["--images", "{one}"], "has 1 image; allowed: 3 or more"),
        (["--images", "{tiny}", "--teacher", "{dino}"], "side of 4 px, smaller than a patch; allowed: 8 px or more"),
        (["--images", "{here}/none"], "does not exist"),
        (["--images", "{photos}/photo-001.png"], "allowed: a folder of photos, or a list of files, a line each"),
        (["--images", "{dino}"], "allowed: a folder of photos, or a list of files, a line each"),
        (["--images", "{photos}", "--teacher", ""], "teacher ''; allowed: a checkpoint file, or a timm name"),
        (["--images", "{photos}", "--teacher", "{empty}"], "is no folder of a model"),
        (["--images", "{photos}", "--teacher", "{here}/none.pth"], "none.pth does not exist"),
        (["--images", "{photos}", "--teacher", "{other}"], "other.pth"),
        (["--images", "{photos}", "--teacher", "resnet50"], "resnet50"),
        (["--images", "{photos}", "--teacher", "no_such_model"], "timm has no model"),
        (["--images", "{photos}", "--student", "vit_huge"], "student 'vit_huge'; allowed: vit_tiny"),
        (["--images", "{photos}", "--views.seed", "1"], "new takes no settings"),
    ],
)
def test_what_makes_no_project_is_refused_in_one_line_and_leaves_nothing(words, said, photos, dino, tmp_path, capsys):
    import torch

    torch.save({"conv1.weight": torch.zeros(4, 3, 7, 7), "fc.weight": torch.zeros(2, 4)}, tmp_path / "other.pth")
    names = {"here": tmp_path, "photos": photos, "dino": dino, "other": tmp_path / "other.pth"}
    names |= {"empty": few(tmp_path, 0), "one": few(tmp_path, 1), "tiny": few(tmp_path, 4, 4)}
    before = sorted(tmp_path.rglob("*"))
    assert main(["new", str(tmp_path / "mine"), *(word.format(**names) for word in words)]) == 2
    complaint = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attndistill:")]
    assert len(complaint) == 1
    assert said in complaint[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_not_empty_stays_as_it_is(photos, dino, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/own.txt").write_text("own")
    assert main(["new", str(tmp_path / "mine"), "--images", str(photos), "--teacher", str(dino)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["own.txt"]


def test_where_dvc_cannot_be_set_up_the_empty_folder_stays_empty(photos, dino, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("attndistill.projects.sys.executable", "/bin/false")
    with pytest.raises(ValueError, match=r"dvc init .*failed .*allowed: --no-dvc"):
        new_project(tmp_path / "mine", photos, teacher=str(dino))
    assert list((tmp_path / "mine").iterdir()) == []

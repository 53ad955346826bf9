"""A dry run says what a run would read and cost; nothing is run or written."""

import shutil
from pathlib import Path

import pytest

from attndistill.cli import main
from attndistill.experiments import open_experiment

ROOT = Path(__file__).parents[2]
PAPER_SCALE = {
    "imagenet_subset": 126_689,
    "imagenet1k_dino_s8_s16": 1_281_167,
    "imagenet1k_mugs_b16_s16": 1_281_167,
    "imagenet1k_mugs_s16_t16": 1_281_167,
}


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing was run yet."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.setenv("ATTNDISTILL_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", PAPER_SCALE)
def test_the_dry_run_in_a_paper_scale_readme_is_what_the_command_prints(bare, capsys, name):
    before = sorted(bare.rglob("*"))
    words = ["pipeline", "--experiment", f"experiments/{name}", "--dry-run", "--images", str(PAPER_SCALE[name])]
    assert main(words) == 1  # the images come from outside
    readme = (ROOT / "experiments" / name / "README.md").read_text()
    assert readme.split("```\n")[1] == capsys.readouterr().out
    assert f"attndistill {' '.join(words)}" in readme
    assert sorted(bare.rglob("*")) == before


def test_one_stage_names_what_is_not_there_yet_and_who_makes_it(bare, capsys):
    assert main(["distill", "--row", "attndistill", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "not yet 2      outputs/digits/pretrained/teacher, made by pretrain\n" in out
    assert "in all         not known before prepare (or give --images)\n" in out


def test_fewer_images_than_a_batch_are_refused(bare, capsys):
    assert main(["distill", "--row", "attndistill", "--dry-run", "--images", "10"]) == 2
    assert "batch size 64 is larger than the 10 training images" in capsys.readouterr().err


def test_flops_are_those_of_the_textbook():
    from attndistill.stages.costs import teacher_flops

    config = open_experiment(ROOT, "experiments/imagenet1k_mugs_s16_t16").config("attndistill", {})
    tokens, width, depth, patch = 197, 384, 12, 16
    block = 24 * tokens * width**2 + 4 * tokens**2 * width  # qkv, projection, MLP of ratio 4; logits and their use
    embedding = 2 * (tokens - 1) * 3 * patch**2 * width
    without_last = embedding + (depth - 1) * block
    assert without_last < teacher_flops(config) < without_last + 0.1 * block  # the last block runs for one query


def test_a_cached_teacher_costs_the_step_nothing_and_frozen_weights_no_memory():
    from attndistill.stages.costs import distillation_step, teacher_flops

    experiment = open_experiment(ROOT, "experiments/digits")
    cached = distillation_step(experiment.config("attndistill", {}))
    live_config = experiment.config("attndistill", {"targets.cache": False})
    live = distillation_step(live_config)
    assert live.flops - cached.flops == teacher_flops(live_config)
    assert (cached.frozen, live.frozen) == (0, 207_424)
    assert cached.trained == 67_104 + 20_400

"""Two steps of every paper-scale experiment at full model size, on made pictures of 224 pixels. Minutes each."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from attndistill.cli import main
from attndistill.experiments import open_experiment
from attndistill.models.sizes import PRESETS

ROOT = Path(__file__).parents[2]
RELEASED_TEACHERS = ("imagenet1k_dino_s8_s16", "imagenet1k_mugs_b16_s16", "imagenet1k_mugs_s16_t16")
TWO_STEPS = {
    "data.validation_fraction": 0.5,
    "seeds": "[0]",
    "pretrain.recipe.epochs": 2,
    "pretrain.recipe.warmup_epochs": 0,
    "pretrain.recipe.batch_size": 4,
    "targets.views": 2,
    "distill.recipe.epochs": 2,
    "distill.recipe.warmup_epochs": 0,
    "distill.recipe.batch_size": 4,
    "runtime.micro_batch_size": 2,
    "runtime.workers": 0,
    "runtime.tracking": "false",
}
TABLE_9 = {"probe.linear.statistics": 2, "attention.images": "[0, 1]"}  # of imagenet_subset alone


def trained_in_two_steps(name: str) -> dict[str, object]:
    """Every evaluation of an experiment that trains, for two epochs of a step: half of the four images chooses, but for
    the one head and Table 9's, which hold out none."""
    settings: dict[str, object] = {"probe.finetune.rates": "[1.0]", "probe.finetune.mixing_group": 2}
    for evaluation, options in open_experiment(ROOT / "experiments" / name).config("", {}).probe.chosen().items():
        if "recipe" in options:
            size = 4 if evaluation in ("linear", "linear_dino") else 2
            steps = {"epochs": 2, "warmup_epochs": 0, "batch_size": size}
            settings |= {f"probe.{evaluation}.recipe.{key}": value for key, value in steps.items()}
    return settings


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for wnid in ("n01440764", "n01443537"):
            folder = tmp_path / "data/imagenet" / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / f"{wnid}_{number}.JPEG")
    (tmp_path / "data/imagenet_subset.txt").write_text("n01440764\nn01443537\n")
    monkeypatch.setenv("ATTNDISTILL_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # a checkpoint's path is read from the working directory
    return tmp_path


def write_checkpoint(project: Path, name: str) -> None:
    """A random teacher in the layout in which its authors publish it."""
    (project / "checkpoints").mkdir()
    sizes = PRESETS["vit_base" if "_b16_" in name else "vit_small"]
    patch = 8 if "_s8_" in name else 16
    torch.manual_seed(0)
    vit = VisionTransformer(patch_size=patch, num_classes=0, **sizes).state_dict()
    if "dino" in name:
        torch.save(vit, project / "checkpoints/dino_deitsmall8_pretrain.pth")
    else:
        file = "mugs_vit_base_backbone_400ep.pth" if "_b16_" in name else "mugs_vit_small_backbone_800ep.pth"
        relation = {"relation_blocks.0.norm1.weight": torch.ones(sizes["embed_dim"])}
        torch.save({"state_dict": vit | relation}, project / "checkpoints" / file)


def run(capsys: pytest.CaptureFixture[str], name: str, settings: dict[str, object], *commands: str) -> None:
    """Each command on the experiment, all with the same settings; every one ends well."""
    given = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    for command in commands:
        words = [*command.split(), "--experiment", f"experiments/{name}", *given]
        assert main(words) == 0, f"{command}: {capsys.readouterr().err}"


def check_two_steps(project: Path, name: str, row: str) -> None:
    """A student is there, and each of its two epochs of one step has figures of both losses."""
    curves = json.loads((project / f"experiments/{name}/results/training/{row}.json").read_text())["curves"]["0"]
    assert [epoch for epoch, _ in curves["loss"]] == [1, 2]
    assert all(np.isfinite(value) and value > 0 for _, value in (*curves["alignment"], *curves["attention"]))
    assert (project / f"experiments/{name}/outputs/distilled/{row}/seed-0/model.safetensors").exists()


def check_evaluations(project: Path, name: str, model: str) -> None:
    """Every evaluation that the experiment turns on has figures; fine-tuning, of both of its epochs of a step."""
    probes = json.loads((project / f"experiments/{name}/results/probes/{model}.json").read_text())["probes"]
    chosen = open_experiment(ROOT / "experiments" / name).config("", {}).probe.chosen()
    assert set(probes) == set(chosen) >= {"knn", "logistic_mairal", "finetune"}
    epochs = {key for key in probes["finetune"]["sweep"] if not key.endswith("weights")}
    assert epochs >= {"rate 1, epoch 2", "rate 1, epoch 2, validation"}
    assert len(probes.get("linear_ibot", {"sweep": range(45)})["sweep"]) == 45


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED_TEACHERS)
def test_two_steps_at_full_size_go_from_images_and_checkpoint_to_a_student(project, name, capsys):
    write_checkpoint(project, name)
    settings = TWO_STEPS | {"teacher.check": "off"} | trained_in_two_steps(name)  # noise has no neighbours
    run(capsys, name, settings, "prepare", "pretrain --model teacher", "targets", "distill --row attndistill")
    check_two_steps(project, name, "attndistill")
    run(capsys, name, settings, "probe --model attndistill")
    check_evaluations(project, name, "attndistill")


@pytest.mark.slow
def test_table_10_at_full_size_goes_from_images_to_its_report(project, capsys):
    """The table's largest and smallest students, and every kind of result that the report shows."""
    name, largest, smallest = "imagenet_subset", "a-heads-6-attn", "a-layers-8-3-32-attn"
    settings = TWO_STEPS | TABLE_9 | trained_in_two_steps(name)
    run(capsys, name, settings, "prepare", "pretrain --model teacher", "pretrain --model scratch", "targets")
    run(capsys, name, settings, f"distill --row {largest}", f"distill --row {smallest}")
    for model in ("teacher", "scratch", largest, smallest):
        run(capsys, name, settings, f"probe --model {model}", f"attention --model {model}")
    run(capsys, name, settings, "report")
    check_two_steps(project, name, largest)
    check_two_steps(project, name, smallest)
    table = json.loads((project / f"experiments/{name}/results/report/table.json").read_text())["models"]
    assert {"teacher", "scratch", largest, smallest} <= set(table)
    probes = json.loads((project / f"experiments/{name}/results/probes/{smallest}.json").read_text())
    check_evaluations(project, name, smallest)
    assert (project / f"experiments/{name}/outputs/report/comparison.csv").exists()
    assert probes["parameters"] == 4_159_104  # 8 layers of width 192, patches of 32 pixels
    heads = {
        model: np.load(project / f"experiments/{name}/outputs/attention/{model}/maps.npz")["heads"].shape
        for model in (smallest, "teacher")
    }
    assert heads == {smallest: (2, 3, 7, 7), "teacher": (2, 6, 14, 14)}  # pictures, heads, the grid of 224 / 32 or 16

"""A dry run counts the evaluations that train: what a step costs, how many steps, how often a model is judged."""

import math
import re
import shutil
from pathlib import Path

import pytest
import yaml

from attndistill.cli import main
from attndistill.config import read_yaml, resolve
from attndistill.config.transfer import with_transfer_presets
from attndistill.evaluations import evaluations
from attndistill.experiments import DEFAULTS
from attndistill.outcomes import directions

ROOT = Path(__file__).parents[2]
COUNTS = "--images 126689 --test-images 5000 --classes 100"
RECIPE = (
    "epochs: 100, batch_size: 1024, base_learning_rate: 6.0e-4, warmup_epochs: 5, precision: bf16, "
    "optimizer: {name: %s, weight_decay: 0.05}"
)


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.setenv("ATTNDISTILL_ROOT", str(tmp_path))

    def run(name: str, options: str, optimizer: str = "adamw") -> str:
        words = ["probe", "--model", "teacher", "--experiment", "experiments/imagenet_subset", "--dry-run"]
        given = f"{{{options}, recipe: {{{RECIPE % optimizer}}}}}"
        assert main([*words, *COUNTS.split(), f"--probe.{name}", given]) == 0
        return capsys.readouterr().out

    return run


def test_a_fine_tuning_costs_its_rates_runs_and_what_they_are_judged_on(printed):
    out = printed("finetune", "protocol: beit-ld-v1, rates: [0.5, 1.0, 2.0], evaluate_every: 10")
    assert "finetune steps 490 of 9,800 steps (5 of 100 epochs warm up, then half a cosine to 1e-06)" in out
    assert "last 1e-06\n" in out
    assert "finetune in all 3 rates, judged 10 times each, " in out
    once = printed("finetune", "protocol: beit-ld-v1, rates: [0.5], evaluate_every: 100")
    of_three, of_one = (float(text.split("times each, ")[1].split(" FLOPs")[0]) for text in (out, once))
    assert of_three == pytest.approx(3 * of_one, rel=0.1)
    memory = next(line for line in out.splitlines() if "finetune memory" in line)
    assert "GB activations (512 images at once, bf16)" in memory


def test_many_heads_cost_one_reading_of_the_backbone_and_their_rate_changes_between_epochs(printed):
    many, one = (printed("linear_ibot", text, "sgd") for text in ("rates: null", "rates: [1.0]"))
    assert many == one
    assert "linear ibot steps 615 of 12,300 steps" in many  # of all of train
    lowest = 6e-4 * 4 * 0.5 * (1 + math.cos(math.pi * 94 / 95))  # of the last epoch's first step
    assert float(many.split("linear ibot steps")[1].split("last ")[1].split("\n")[0]) == pytest.approx(lowest, rel=0.01)


def test_a_study_may_aim_at_every_figure_of_a_student():
    allowed = directions()
    every = {one.key(figure) for one in evaluations().values() if one.on != "pair" for figure in one.figures}
    assert allowed.keys() == every | {"parameters"}
    assert allowed["finetune_last_top1"] == allowed["linear_ibot_top1"] == "maximize"


def examples() -> list[dict]:
    blocks = re.findall("```yaml\n(.*?)```", (ROOT / "docs/evaluations.md").read_text(), re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


@pytest.mark.parametrize("example", examples(), ids=lambda one: "-".join(one.get("probe", one)))
def test_every_example_of_the_page_on_evaluations_is_a_setting(example):
    config = resolve([with_transfer_presets(layer) for layer in (read_yaml(DEFAULTS), example)])
    assert all(config.probe_of(name).chosen() for name in ("", *config.datasets))

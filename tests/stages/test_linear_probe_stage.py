"""The probe stage with a linear probe: beside the others, by its own protocol, on the labels that are kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from attndistill.experiments import open_experiment
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item
from attndistill.stages.layout import Layout

ROOT = Path(__file__).parents[2]
RECIPE = {
    "epochs": 8, "batch_size": 64, "base_learning_rate": 0.02, "warmup_epochs": 1, "precision": "fp32",
    "optimizer": {"name": "adamw"},
}  # fmt: skip
SETTINGS = {
    "runtime.tracking": False,
    "seeds": [0],
    "teacher_seed": 0,
    "probe.linear": {"statistics": 32, "recipe": RECIPE},
}


@pytest.fixture(scope="module")
def root(untaught: Callable[[dict], Path]) -> Path:
    """Prepared data and an untrained teacher."""
    return untaught(SETTINGS)


def probed(root: Path, **settings: object) -> dict:
    run_stage(open_experiment(root / "experiments/smoke"), STAGES["probe"], Item("teacher"), SETTINGS | settings)
    return json.loads(Layout(root / "experiments/smoke", "smoke").result("probes", "teacher.json").read_text())[
        "probes"
    ]


def test_a_linear_probe_stands_beside_the_others_and_leaves_them_as_they_are(root):
    found, without = probed(root), probed(root, **{"probe.linear": None})
    assert found["linear"]["top1"]["protocol"] == "linear/adamw-8-epochs-v1"
    assert 15 < found["linear"]["top1"]["mean"] < found["linear"]["top5"]["mean"] < 100
    assert {name: found[name] for name in ("knn", "logistic")} == without
    assert probed(root)["linear"] == found["linear"]
    assert not list((root / ".work").glob("probe-teacher/*"))  # its checkpoint went when the figures were safe


def test_a_linear_probe_sees_the_labels_that_are_kept_alone(root):
    few = probed(root, **{"probe.labels.fraction": 0.2})["linear"]["top1"]
    assert few["protocol"] == "linear/adamw-8-epochs-v1, 20 % of labels (seed 0)"
    assert few["mean"] != probed(root)["linear"]["top1"]["mean"]


def test_a_batch_larger_than_the_set_is_refused(root):
    with pytest.raises(ValueError, match="batch size 4096 is larger than the 1258 training images"):
        probed(root, **{"probe.linear": {"statistics": 32, "recipe": RECIPE | {"batch_size": 4096}}})


def test_micro_batches_change_nothing_but_the_last_bits(root):
    whole, cut = (probed(root, **{"runtime.micro_batch_size": size})["linear"]["top1"] for size in (None, 32))
    assert cut["mean"] == pytest.approx(whole["mean"], abs=0.4)  # two of 539 test images


def test_a_micro_batch_that_cuts_a_group_of_the_batch_norm_is_refused(root):
    with pytest.raises(ValueError, match=r"takes 16 images at once, no multiple of probe\.linear\.statistics 32"):
        probed(root, **{"runtime.micro_batch_size": 16})


def test_a_batch_of_broken_groups_is_refused(root):
    with pytest.raises(ValueError, match="batch_size 64 is no multiple of statistics 48"):
        probed(root, **{"probe.linear": {"statistics": 48, "recipe": RECIPE}})

"""The probe stage with fine-tuning and probes of many heads: named, stored, resumed after kill -9, shown, refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import killed_after

from attndistill.experiments import open_experiment
from attndistill.pipeline import run_stage
from attndistill.report.columns import columns_of
from attndistill.report.entries import TEACHER, Entry
from attndistill.results import ProbeFile
from attndistill.stages import STAGES, Item
from attndistill.stages.layout import Layout

RECIPE = {
    "epochs": 2, "batch_size": 64, "base_learning_rate": 0.004, "warmup_epochs": 1, "precision": "fp32",
    "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.05},
}  # fmt: skip
SGD = {
    **RECIPE,
    "epochs": 8,
    "base_learning_rate": 1.0,
    "warmup_epochs": 0,
    "optimizer": {"name": "sgd", "momentum": 0.9},
}
TUNED = {"protocol": "beit-ld-v1", "rates": [0.5, 1.0], "mixing_group": 32, "recipe": RECIPE}
HEADS = {"blocks": 2, "recipe": SGD}
SETTINGS = {"runtime.tracking": False, "runtime.processes": 1, "seeds": [0], "data.set.test_fraction": 0.8}


@pytest.fixture(scope="module")
def root(untaught: Callable[[dict], Path]) -> Path:
    """Prepared data and an untrained teacher."""
    return untaught(SETTINGS)


def layout(root: Path) -> Layout:
    return Layout(root / "experiments/smoke", "smoke")


def probe(root: Path, **settings: object) -> None:
    experiment = open_experiment(root / "experiments/smoke")
    given = {**SETTINGS, "runtime.checkpoint_seconds": 0.0, **settings}
    run_stage(experiment, STAGES["probe"], Item("teacher"), given)


def probed(root: Path, **settings: object) -> dict:
    probe(root, **settings)
    return json.loads(layout(root).result("probes", "teacher.json").read_text())["probes"]


def test_the_published_evaluations_stand_beside_the_others_and_leave_them_as_they_are(root):
    wanted = {"probe.finetune": TUNED, "probe.linear_ibot": HEADS, "probe.logistic_mairal": {}}
    found, without = probed(root, **wanted), probed(root)
    assert set(found) == {"knn", "logistic", "logistic_mairal", "finetune", "linear_ibot"}
    assert {name: found[name] for name in ("knn", "logistic")} == without
    tuned = found["finetune"]
    assert tuned["top1"]["protocol"] == "finetune/beit-ld-v1 (mixing_group 32), 2 epochs, 2 rates"
    assert set(tuned) == {"top1", "top5", "last_top1", "selected", "sweep"}
    assert tuned["selected"]["epoch"][0] in (1, 2)
    assert 0 < tuned["top1"]["mean"] < tuned["top5"]["mean"] < 100
    protocol = "linear/ibot-v1 on CLS of the last 2 blocks, sgd, 8 epochs"
    assert found["linear_ibot"]["top1"]["protocol"] == protocol
    assert found["logistic_mairal"]["top1"]["protocol"] == "logistic/dino-mairal-v2"
    assert len(found["linear_ibot"]["sweep"]) == 45
    assert found["linear_ibot"]["top1"]["mean"] > 25
    assert not list((root / "experiments/smoke/.work").glob("probe-teacher/*"))  # checkpoints went with the figures


def test_the_report_has_a_column_for_each_figure(root):
    probe(root, **{"probe.finetune": TUNED, "probe.linear_ibot": HEADS})
    file = ProbeFile.read_if_any(layout(root).result("probes", "teacher.json"))
    columns = columns_of([Entry(TEACHER, "Teacher", "", probe=file)])
    titles = {column.title: column.protocol for column in columns}
    assert titles["Fine-tuning top-1"] == titles["Fine-tuning top-1, last epoch"]
    assert titles["Fine-tuning top-1"].startswith("finetune/beit-ld-v1 ")
    assert titles["Linear (iBOT, many rates) top-1"].startswith("linear/ibot-v1 ")


def test_few_labels_are_named_in_the_protocol_and_learned_from_alone(root):
    few = probed(
        root, **{"probe.finetune": {**TUNED, "recipe": RECIPE | {"batch_size": 32}}, "probe.labels.fraction": 0.2}
    )
    protocol = "finetune/beit-ld-v1 (mixing_group 32), 2 epochs, 2 rates, 20 % of labels (seed 0)"
    assert few["finetune"]["top1"]["protocol"] == protocol
    with pytest.raises(ValueError, match=r"probe\.labels keeps 10 images, one a class: none is left to choose"):
        probe(root, **{"probe.finetune": TUNED, "probe.labels.fraction": 0.01})


@pytest.mark.parametrize("saves", [3, 9])
def test_a_fine_tuning_killed_by_the_system_is_resumed_to_the_same_file(root, saves):
    """kill -9 right after so many checkpoints: in the first rate's run or the second's."""
    settings = {"probe.finetune": TUNED}
    whole = probed(root, **settings)
    stored = layout(root).result("probes", "teacher.json").read_bytes()
    assert killed_after(saves, probe, root, **settings)
    assert probed(root, **settings) == whole
    assert layout(root).result("probes", "teacher.json").read_bytes() == stored


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"probe.linear_dinov2": {"recipe": SGD}}, r"probe\.linear_dinov2\.blocks 4; this model has 2"),
        (
            {"probe.finetune": TUNED, "runtime.micro_batch_size": 16},
            r"takes 16 images at once, no multiple of probe\.fine",
        ),
        ({"probe.finetune": TUNED | {"rates": []}}, r"probe\.finetune\.rates: "),
        ({"probe.finetune": TUNED | {"rates": [0.0]}}, r"probe\.finetune\.rates\.0: "),
        (
            {"probe.finetune": TUNED | {"choose": "train"}},
            r"probe\.finetune\.choose: 'train'; allowed: 'validation' or",
        ),
        ({"probe.finetune": {"recipe": RECIPE | {"epochs": 1}}}, "warmup_epochs 1 must be fewer than epochs 1"),
        ({"probe.finetune": {**TUNED, "ema": 0.9}}, r"probe\.finetune\.ema: unknown key"),
        ({"views.image_size": 30, "probe.finetune": TUNED}, "does not divide views.image_size 30"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line_before_anything_trains(root, settings, problem):
    before = sorted((root / "experiments/smoke").rglob("*"))
    with pytest.raises(ValueError, match=problem) as error:
        probe(root, **settings)
    assert "\n" not in str(error.value)
    assert sorted((root / "experiments/smoke").rglob("*")) == before


def test_a_further_data_set_that_was_not_prepared_is_refused(root):
    settings = {**SETTINGS, "probe.finetune": TUNED, "datasets": {"other": {"views": {"seed": 5}}}}
    with pytest.raises(ValueError, match=r"^probe: outputs/datasets/other does not exist$"):
        run_stage(open_experiment(root / "experiments/smoke"), STAGES["probe"], Item("teacher", "other"), settings)


@pytest.mark.parametrize("size", [16, 48])
def test_a_further_data_set_of_another_resolution_is_judged_with_positions_resampled(root, size):
    experiment, item = open_experiment(root / "experiments/smoke"), Item("teacher", "other")
    tuned = TUNED | {"rates": [1.0], "recipe": RECIPE | {"warmup_epochs": 0, "epochs": 1}}
    settings = {**SETTINGS, "probe.finetune": tuned, "datasets": {"other": {"views": {"image_size": size}}}}
    run_stage(experiment, STAGES["prepare"], Item("", "other"), settings)
    run_stage(experiment, STAGES["probe"], item, settings)
    found = json.loads(layout(root).result("probes", "teacher@other.json").read_text())["probes"]
    assert found["knn"]["top1"]["mean"] > 15  # of ten digits, by an untrained model
    assert 0 < found["finetune"]["last_top1"]["mean"] < 100


def test_a_further_data_set_that_the_patches_do_not_divide_is_refused_before_it_is_prepared(root):
    settings = {**SETTINGS, "datasets": {"other": {"views": {"image_size": 30}}}}
    with pytest.raises(
        ValueError, match=r"teacher\.patch_size 4 does not divide datasets\.other\.views\.image_size 30"
    ):
        run_stage(open_experiment(root / "experiments/smoke"), STAGES["prepare"], Item("", "other"), settings)

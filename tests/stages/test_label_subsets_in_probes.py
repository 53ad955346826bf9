"""Semi-supervised probing: only the images that keep their label are seen, and the protocol's name says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from attndistill.data.store import open_split
from attndistill.experiments import open_experiment
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item
from attndistill.stages.layout import Layout

ROOT = Path(__file__).parents[2]
QUIET = {"runtime.tracking": False, "runtime.processes": 1, "seeds": [0]}


@pytest.fixture(scope="module")
def root(untaught: Callable[[dict], Path]) -> Path:
    """Prepared data and an untrained teacher."""
    return untaught(QUIET)


def probed(root: Path, **labels: object) -> dict:
    settings = QUIET | {f"probe.labels.{key}": value for key, value in labels.items()}
    run_stage(open_experiment(root / "experiments/smoke"), STAGES["probe"], Item("teacher"), settings)
    return json.loads(Layout(root / "experiments/smoke", "smoke").result("probes", "teacher.json").read_text())[
        "probes"
    ]


def test_a_share_of_labels_gives_other_figures_under_another_protocol(root):
    whole, tenth = probed(root)["knn"]["top1"], probed(root, fraction=0.1)["knn"]["top1"]
    assert tenth["protocol"] == f"{whole['protocol']}, 10 % of labels (seed 0)"
    assert tenth["mean"] < whole["mean"]
    assert tenth == probed(root, fraction=0.1)["knn"]["top1"]
    assert tenth["values"] != probed(root, fraction=0.1, seed=1)["knn"]["top1"]["values"]


def test_a_list_of_all_names_gives_the_figures_of_all_labels(root):
    names = open_split(Layout(root / "experiments/smoke", "smoke").data, "train").names
    (root / "experiments/smoke/all.txt").write_text("".join(f"{name}.JPEG\n" for name in names))
    listed, whole = probed(root, list_file="all.txt")["logistic"]["top1"], probed(root)["logistic"]["top1"]
    assert f"{len(names)} labels of list " in listed["protocol"]
    assert abs(listed["mean"] - whole["mean"]) < 1  # the part on which C is chosen is drawn anew


def test_too_few_labels_to_choose_anything_on_are_refused(root):
    with pytest.raises(ValueError, match="keeps 10 images, one a class"):
        probed(root, fraction=0.001)
    with pytest.raises(ValueError, match="fraction and list_file are both given"):
        probed(root, fraction=0.1, list_file="all.txt")

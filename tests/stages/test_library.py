"""Attention distillation from Python: no project, no Context, and the same bytes as the stages."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import attndistill
from attndistill.config import flat
from attndistill.data.store import open_split
from attndistill.experiments import open_experiment
from attndistill.models.storage import load_model
from attndistill.results import ProbeFile

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "runtime.tracking": False,
    "runtime.processes": 1,
    "seeds": [0],
    "data.set.test_fraction": 0.8,
}  # conftest's


def settings_of(project: Path) -> dict:
    """The toy experiment's settings as Python takes them."""
    plain = open_experiment(project / "experiments/smoke").config("attndistill", SETTINGS).plain()
    read = ("views", "student", "teacher", "targets", "distill", "probe", "data.validation", "runtime")
    return {key: value for key, value in flat(plain).items() if key.startswith(read) and value != {}}


def test_the_same_settings_and_seed_give_the_stages_student_to_the_byte(taught, stage):
    stage("distill", "attndistill")
    layout = open_experiment(taught / "experiments/smoke").layout
    teacher, _ = load_model(layout.weights("teacher", 0))
    student = attndistill.distil(
        open_split(layout.data, "train"),
        teacher,
        {},
        settings=settings_of(taught),
        seed=0,
        work=taught / "work",
    )
    backbone, projector = load_model(layout.weights("attndistill", 0))
    for ours, theirs in ((student.backbone, backbone), (student.projector, projector)):
        found = dict(ours.state_dict())
        assert found.keys() == theirs.state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in theirs.state_dict().items())


def test_evaluate_gives_the_figures_that_the_probe_stage_writes(taught, stage):
    stage("probe", "teacher")
    layout = open_experiment(taught / "experiments/smoke").layout
    teacher, _ = load_model(layout.weights("teacher", 0))
    train, test = (open_split(layout.data, name) for name in ("train", "test"))
    found = attndistill.evaluate(teacher, train, test, settings=settings_of(taught))
    written = ProbeFile.read(layout.result("probes", "teacher.json"))
    assert set(found) == set(written.probes) == {"knn", "logistic"}
    for name, result in found.items():
        assert result.protocol == written.probes[name].figures["top1"].protocol
        assert result.figures == {key: one.values[0] for key, one in written.probes[name].figures.items()}


def test_features_are_rows_of_the_class_token_and_a_batch_changes_nothing(taught):
    layout = open_experiment(taught / "experiments/smoke").layout
    teacher, _ = load_model(layout.weights("teacher", 0))
    images = open_split(layout.data, "test").images[:7]
    whole = attndistill.embed(teacher, images)
    assert whole.shape == (7, 32)
    assert whole.dtype == np.float32
    by_two = attndistill.embed(teacher, images, settings={"runtime.evaluation_batch_size": 2})
    np.testing.assert_allclose(whole, by_two, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, i: attndistill.distil(i, t, "vit_huge"), "student 'vit_huge'; allowed: vit_tiny"),
        (lambda t, i: attndistill.distil(i, t, settings={"distill.lamda": 1}), "distill.lamda: unknown key"),
        (lambda t, i: attndistill.distil(i, "nowhere.pth"), "nowhere.pth"),
        (lambda t, i: attndistill.distil(i.astype(float), t), "images must be uint8"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(taught, call, message):
    layout = open_experiment(taught / "experiments/smoke").layout
    teacher, _ = load_model(layout.weights("teacher", 0))
    images = open_split(layout.data, "test").images[:3]
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        call(teacher, images)
    assert "\n" not in str(refusal.value)


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, attndistill; print(sorted(set(sys.modules) & {'torch', 'timm', 'numpy', 'pydantic'}))"
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert done.stdout == "[]\n"

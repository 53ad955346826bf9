"""Accuracy over the epochs of a distillation: of the very student that is stored, and a curve on the report's page."""

import io

import pytest
from ruamel.yaml import YAML

from attndistill.config import read_yaml
from attndistill.drivers import dvc_file
from attndistill.experiments import open_experiment
from attndistill.report.entries import read_entries
from attndistill.report.pictures import charts
from attndistill.results import ProbeCurve


@pytest.fixture
def followed(taught):
    """The smoke experiment, one row of which is followed at every second of three epochs."""
    folder = taught / "experiments/smoke"
    rows = read_yaml(folder / "rows.yaml")
    rows["rows"]["attndistill"]["follow"] = 2
    text = io.StringIO()
    YAML().dump(rows, text)
    (folder / "rows.yaml").write_text(text.getvalue())
    return folder


def test_the_stored_student_is_judged_on_the_way_and_the_report_draws_the_curve(followed, stage, capsys):
    settings = {"distill.recipe.epochs": 3}
    stage("distill", "attndistill", **settings)
    student = followed / "outputs/distilled/attndistill/seed-0/model.safetensors"
    before = student.read_bytes()
    stage("follow", "attndistill", **settings)
    points = ProbeCurve.read(followed / "results/pretrain_probe/attndistill.csv").points
    assert [epoch for epoch, _ in points[0]] == [2, 3]
    assert all(0 <= top1 <= 100 for _, top1 in points[0])
    assert student.read_bytes() == before
    assert "is not bit for bit" not in capsys.readouterr().out
    entries = read_entries(followed / "results", followed / "outputs", open_experiment(followed).file, {})
    assert "pretraining.png" in charts(entries, [])
    other = {**settings, "distill.recipe.base_learning_rate": 1e-3}
    stage("follow", "attndistill", **other)
    assert "is not bit for bit the stored one" in capsys.readouterr().out


def test_dvc_follows_the_rows_that_ask_for_it_alone(followed):
    stages = read_yaml_of(dvc_file(open_experiment(followed)))["stages"]
    assert [name for name in stages if name.startswith("follow")] == ["follow_attndistill"]
    one = stages["follow_attndistill"]
    assert one["cmd"].endswith("python -m attndistill follow --row attndistill")
    assert {"rows.yaml": ["rows.attndistill.set", "rows.attndistill.follow"]} in one["params"]
    assert one["outs"] == [{"results/pretrain_probe/attndistill.csv": {"cache": False}}]


def read_yaml_of(text: str):
    return YAML(typ="safe").load(text)


def test_a_row_that_does_not_ask_is_refused(taught, stage):
    with pytest.raises(ValueError, match="follow: unknown row 'attndistill'; allowed: none here"):
        stage("follow", "attndistill")

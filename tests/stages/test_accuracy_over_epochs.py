"""Accuracy over the epochs of a distillation: of the very students that are stored, a curve on the report's page."""

from attndistill.experiments import open_experiment
from attndistill.report.entries import read_entries
from attndistill.report.pictures import charts
from attndistill.results import ProbeFile, TrainingFile


def test_a_student_is_judged_on_the_way_and_stays_the_same_to_the_byte(taught, stage):
    folder, settings = taught / "experiments/smoke", {"distill.recipe.epochs": 3, "seeds": [0, 1]}
    students = [folder / f"outputs/distilled/attndistill/seed-{seed}/model.safetensors" for seed in (0, 1)]
    stage("distill", "attndistill", **settings)
    before = [student.read_bytes() for student in students]
    stage("distill", "attndistill", **settings, **{"distill.probe_every": 2})
    assert [student.read_bytes() for student in students] == before
    curves = TrainingFile.read(folder / "results/training/attndistill.json").curves
    for seed in ("0", "1"):
        assert [epoch for epoch, _ in curves[seed]["probe_top1"]] == [2, 3]
        assert all(0 <= top1 <= 100 for _, top1 in curves[seed]["probe_top1"])
    entries = read_entries(folder / "results", folder / "outputs", open_experiment(folder).file, {})
    assert "pretraining.png" in charts(entries, [])


def test_the_last_point_is_the_probe_of_the_stored_student(taught, stage):
    folder, settings = taught / "experiments/smoke", {"distill.probe_every": 1}
    stage("distill", "attndistill", **settings)
    stage("probe", "attndistill", **{"probe.logistic": {"strengths": [1.0], "tolerance": 1e-4, "max_iterations": 1000}})
    ((_, last),) = TrainingFile.read(folder / "results/training/attndistill.json").curves["0"]["probe_top1"][-1:]
    probes = ProbeFile.read(folder / "results/probes/attndistill.json").probes
    assert last == probes["logistic"].figures["top1"].values[0]

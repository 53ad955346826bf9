"""Photos without labels: a data set for everything but what asks for labels."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from attndistill.data.manifest import read_manifest
from attndistill.data.preparation import prepare
from attndistill.data.sources import open_source
from attndistill.data.store import open_split, verify_data
from attndistill.experiments import open_experiment
from attndistill.pipeline import run_pipeline, run_stage
from attndistill.report.columns import columns_of
from attndistill.report.speeds import SpeedFile
from attndistill.results import ProbeFile, TableFile, TrainingFile
from attndistill.stages import STAGES, Item


def prepared(place: Path, **options: object) -> dict:
    return prepare(open_source("photos", options), place, validation_fraction=0.2, split_seed=0)


def test_a_nested_tree_of_photos_is_a_data_set_without_labels(photos, tmp_path):
    manifest = prepared(tmp_path / "data", root=str(photos), held_out=0.2)
    assert manifest["labelled"] is False
    assert {name: part["count"] for name, part in manifest["splits"].items()} == {"train": 48, "test": 12}
    train, test = (open_split(tmp_path / "data", split) for split in ("train", "test"))
    assert not train.labels.any()
    every = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    assert sorted([*train.names, *test.names]) == every
    verify_data(tmp_path / "data")


def test_a_labelled_manifest_says_nothing_of_it(tmp_path):
    prepare(open_source("digits", {}), tmp_path / "data", validation_fraction=0.2, split_seed=0)
    assert "labelled" not in read_manifest(tmp_path / "data")


def test_a_list_of_files_names_the_photos_and_its_place_enters_no_manifest(photos, tmp_path):
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    (tmp_path / "some.txt").write_text("\n".join([*names[1:], str(photos / names[0]), ""]))
    manifest = prepared(tmp_path / "data", root=str(photos), list_file=str(tmp_path / "some.txt"))
    assert sum(part["count"] for part in manifest["splits"].values()) == len(names)
    assert str(tmp_path) not in json.dumps(manifest)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "has no images; allowed: 3 or more"),
        (["a.png"], "has 1 image; allowed: 3 or more"),
        (["a.png", "b.png", "notes.txt"], "1 bad images"),
    ],
)
def test_a_folder_with_too_few_photos_is_refused_in_one_line(photos, tmp_path, files, said):
    (tmp_path / "few").mkdir()
    picture = next(photos.rglob("*.png")).read_bytes()
    for name in files:
        (tmp_path / "few" / name).write_bytes(picture if name.endswith("png") else b"no image")
    with pytest.raises(ValueError, match=said):
        prepared(tmp_path / "data", root=str(tmp_path / "few"))
    assert not (tmp_path / "data").exists()


def test_too_few_usable_photos_are_refused_after_the_bad_ones_are_left_out(photos, tmp_path):
    (tmp_path / "few").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "few" / name).write_bytes(b"no image")
    source = open_source("photos", {"root": str(tmp_path / "few")})
    with pytest.raises(ValueError, match=r"too few usable images \(0 train, 0 test\)"):
        prepare(source, tmp_path / "data", validation_fraction=0.2, split_seed=0, on_bad_image="skip")


def test_lists_that_name_a_photo_twice_or_outside_the_folder_are_refused(photos, tmp_path):
    listed = tmp_path / "some.txt"
    listed.write_text("a.png\nsub/../a.png\nb.png\n")
    with pytest.raises(ValueError, match=r"names a.png more than once"):
        open_source("photos", {"list_file": str(listed)})
    listed.write_text("../a.png\n")
    with pytest.raises(ValueError, match="lies outside of"):
        open_source("photos", {"list_file": str(listed)})
    with pytest.raises(ValueError, match="neither root nor list_file"):
        open_source("photos", {})


def test_the_pipeline_runs_without_labels_and_reports_agreement_with_the_teacher(project, capsys):
    experiment = open_experiment(project(**{"runtime.speeds": True}))
    run_pipeline(experiment, {})
    said = capsys.readouterr().out
    assert "self-check: left out, these images have no labels" in said
    assert "knn, logistic left out: these images have no labels" in said
    found = ProbeFile.read(experiment.layout.result("probes", "attndistill.json")).probes
    assert list(found) == ["agreement"]
    assert -1 <= found["agreement"].figures["cosine"].mean <= 1
    assert 0 < found["agreement"].figures["overlap"].mean < 100
    assert ProbeFile.read(experiment.layout.result("probes", "teacher.json")).probes == {}
    table = TableFile.read(experiment.layout.results / "report/table.json")
    assert set(table.models["attndistill"].evaluations) == {"agreement", "attention"}
    page = (experiment.layout.report / "index.html").read_text()
    assert "Agreement with teacher" in page
    assert "no labels" in page
    first = r"AttnDistill has (\d+ % of the teacher&#39;s parameters and \d+ % of its FLOPs)<span"
    assert re.search(first, page)
    told = SpeedFile.read(experiment.layout.speeds)
    assert {one.model for one in told.models.values()} >= {"teacher", "attndistill"}
    assert f"speeds: attndistill {told.sentence.text[2:]}; {experiment.layout.speeds}" in said
    shutil.rmtree(experiment.layout.model("attndistill"))
    run_stage(experiment, STAGES["report"], Item(), {})  # of a project whose students are gone
    note = f"note: no speeds beside the page: {experiment.layout.weights('attndistill', 0)} is not here"
    assert note in capsys.readouterr().out.splitlines()
    assert (experiment.layout.report / "index.html").read_text() == page


def test_a_labelled_second_set_is_judged_by_the_probes(project):
    further = {"data.set": {"name": "digits", "size": 16}}
    from attndistill.config import nested

    experiment = open_experiment(project(**{"datasets.digits": nested(further)}))
    for stage in ("prepare", "pretrain", "targets", "distill"):
        for one in STAGES[stage].items(("attndistill",), ("digits",)):
            if one.name != "scratch":
                run_stage(experiment, STAGES[stage], one, {})
    run_stage(experiment, STAGES["probe"], Item("attndistill", "digits"), {})
    found = ProbeFile.read(experiment.layout.result("probes", "attndistill@digits.json")).probes
    assert {"knn", "logistic", "agreement"} == set(found)


def test_a_teacher_that_is_pretrained_on_photos_has_no_probe_curve(project):
    sizes = {"teacher.embed_dim": 16, "teacher.depth": 1, "teacher.num_heads": 1, "teacher.patch_size": 8}
    experiment = open_experiment(project(**sizes, **{"teacher.source": None}))
    run_stage(experiment, STAGES["prepare"], Item(), {})
    run_stage(experiment, STAGES["pretrain"], Item("teacher"), {})
    assert "probe_top1" not in TrainingFile.read(experiment.layout.result("training", "teacher.json")).curves["0"]
    run_stage(experiment, STAGES["targets"], Item(), {})
    with pytest.raises(ValueError, match=r"distill\.probe_every: 1, but these images have no labels; allowed: null"):
        run_stage(experiment, STAGES["distill"], Item("attndistill"), {"distill.probe_every": 1})


def test_a_student_that_is_its_teacher_shares_every_neighbour(photos, dino):
    import attndistill
    from attndistill.models.projector import Projector, Student

    rng = np.random.default_rng(0)
    images = attndistill.array_images(rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 2)
    teacher = attndistill.load_teacher(dino)
    student = Student(teacher, Projector(64, 64, 1, 0)).eval()
    settings = {"probe.knn": None, "probe.logistic": None, "probe.agreement.neighbours": 3}
    found = attndistill.evaluate(student, images, images, settings=settings, teacher=teacher)
    assert found["agreement"].figures["overlap"] == 100
    with pytest.raises(ValueError, match="compares a student with its teacher"):
        attndistill.evaluate(student, images, images, settings=settings)
    with pytest.raises(ValueError, match="fewer than the 40 training images"):
        attndistill.evaluate(
            student, images, images, settings=settings | {"probe.agreement.neighbours": 40}, teacher=teacher
        )


def test_columns_without_any_figure_are_left_out():
    assert columns_of([]) == []

"""Features of a folder as a file, the nearest photos as a picture, and one call from photos to a student."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attndistill
from attndistill.cli import main
from attndistill.data import files
from attndistill.experiments import open_experiment
from attndistill.models.projector import Projector, Student
from attndistill.models.storage import load_model, save_model
from attndistill.models.vit import build_vit
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.0, "position": "sincos"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "mine"
    student = Student(build_vit(32, 1, **SIZES), Projector(24, 64, 2, 1))
    save_model(place, student, image_size=32, vit=SIZES)
    return place


def test_features_of_any_folder_are_written_with_the_names_of_its_photos(photos, stored, tmp_path, capsys):
    for name in ("all.npz", "all.parquet"):
        assert main(["embed", str(photos), "--model", str(stored), "--to", str(tmp_path / name)]) == 0
    assert "features of 60 images" in capsys.readouterr().out
    found = np.load(tmp_path / "all.npz")
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    assert found["name"].tolist() == names
    wanted = attndistill.embed(load_model(stored)[0], photos)
    np.testing.assert_array_equal(found["feature"], wanted)
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "all.parquet")
    assert table["name"].to_pylist() == names
    np.testing.assert_array_equal(np.array(table["feature"].to_pylist(), np.float32), wanted)


def test_features_are_those_that_the_stages_judge(project, photos, tmp_path):
    from attndistill.data.store import open_split
    from attndistill.data.views import ViewRecipe
    from attndistill.evaluations.embedding import embed_split

    experiment = open_experiment(project(**{"views.evaluation_crop": 0.8, "views.mean": [0.2, 0.3, 0.4]}))
    for name, item in (("prepare", ""), ("pretrain", "teacher"), ("targets", ""), ("distill", "attndistill")):
        run_stage(experiment, STAGES[name], Item(item), {})
    test = open_split(experiment.layout.data, "test")
    model, _ = load_model(experiment.layout.weights("attndistill", 0))
    recipe = ViewRecipe.of(experiment.config("", {}).views)
    judged = embed_split(model, test, recipe, crop_share=0.8, batch_size=256, device=torch.device("cpu")).features
    to = tmp_path / "all.npz"
    assert (
        main(["embed", str(photos), "--model", "attndistill", "--to", str(to), "--experiment", str(experiment.folder)])
        == 0
    )
    found = np.load(to)
    place = {name: row for row, name in enumerate(found["name"].tolist())}
    given = found["feature"][[place[name] for name in test.names]]
    np.testing.assert_allclose(given, judged, atol=1e-6)


def test_the_nearest_photos_are_drawn_and_the_photo_itself_is_left_out(photos, stored, tmp_path, capsys):
    asked = photos / "photo-001.png"
    copy = tmp_path / "again.png"
    copy.write_bytes(asked.read_bytes())
    words = ["--model", str(stored), "--among", str(photos), "--to", str(tmp_path / "near.png"), "--count", "6"]
    assert main(["neighbours", str(asked), *words]) == 0
    inside = capsys.readouterr().out.splitlines()
    assert len(inside) == 6
    assert not any("photo-001.png" in line for line in inside)
    assert main(["neighbours", str(copy), *words]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "1.000  photo-001.png"
    with Image.open(tmp_path / "near.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed", "{empty}", "--model", "{model}", "--to", "{here}/a.npz"], "has no images"),
        (["embed", "{here}/none", "--model", "{model}", "--to", "{here}/a.npz"], "does not exist"),
        (["embed", "{photos}", "--model", "{model}", "--to", "{here}/a.csv"], "ends in none of .npz, .parquet"),
        (["embed", "{photos}", "--model", "{here}/x", "--to", "{here}/a.npz"], "no such file or folder"),
        (["embed", "{photos}", "--model", "{model}", "--to", "{here}/no/a.npz"], "its folder does not exist"),
        (
            ["embed", "{broken}", "--model", "{model}", "--to", "{here}/a.npz"],
            "on_bad_image skip leaves such files out",
        ),
        (
            ["embed", "{fake}", "--model", "{model}", "--to", "{here}/a.npz"],
            "a.jpg: no image format is recognised in it; --data.on_bad_image skip",
        ),
        (
            ["neighbours", "{photos}", "--model", "{model}", "--among", "{photos}", "--to", "{here}/a.png"],
            "is a folder",
        ),
        (["export", "{model}", "--to", "{photos}"], "is not an empty folder"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line_and_nothing_is_written(
    words, said, photos, stored, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/a.jpg").write_text("no picture")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_bytes((photos / "photo-001.png").read_bytes()[:200])
    before = sorted(tmp_path.rglob("*"))
    names = {
        "empty": tmp_path / "empty",
        "here": tmp_path,
        "photos": photos,
        "model": stored,
        "broken": tmp_path / "broken",
        "fake": tmp_path / "fake",
    }
    assert main([word.format(**names) for word in words]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len([line for line in complaint.splitlines() if line.startswith("attndistill:")]) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_photos_can_be_left_out(photos, stored, tmp_path, capsys):
    (tmp_path / "some").mkdir()
    good = (photos / "photo-001.png").read_bytes()
    for name, data in {"a.png": good, "b.png": good[:200], "notes.txt": b"x"}.items():
        (tmp_path / "some" / name).write_bytes(data)
    words = ["--model", str(stored), "--to", str(tmp_path / "a.npz"), "--data.on_bad_image", "skip"]
    assert main(["embed", str(tmp_path / "some"), *words]) == 0
    assert "2 of 3 files left out" in capsys.readouterr().out
    assert np.load(tmp_path / "a.npz")["name"].tolist() == ["a.png"]


@pytest.mark.parametrize("policy", ["skip", "error"])
@pytest.mark.parametrize("fault", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ENOSPC])
def test_a_fault_of_the_machine_is_said_as_such_and_leaves_no_photo_out(
    photos, stored, tmp_path, capsys, monkeypatch, fault, policy
):
    def read(path, *, at_most):
        raise OSError(fault, os.strerror(fault), str(path))

    monkeypatch.setattr(files, "read_bounded", read)
    words = ["--model", str(stored), "--to", str(tmp_path / "a.npz"), "--data.on_bad_image", policy]
    assert main(["embed", str(photos), *words]) == 1
    assert os.strerror(fault) in (said := capsys.readouterr().err)
    assert "on_bad_image" not in said
    assert not (tmp_path / "a.npz").exists()


def test_one_call_from_a_folder_gives_the_bytes_of_the_stages(project, photos, dino, small, tmp_path):
    experiment = open_experiment(project())
    for name, item in (("prepare", ""), ("pretrain", "teacher"), ("targets", ""), ("distill", "attndistill")):
        run_stage(experiment, STAGES[name], Item(item), {})
    stages, _ = load_model(experiment.layout.weights("attndistill", 0))
    student = attndistill.distil(str(photos), dino, SIZES, settings=small, work=tmp_path / "work")
    for name, tensor in student.backbone.state_dict().items():
        assert torch.equal(tensor, stages.state_dict()[name]), name


def test_photos_are_prepared_again_only_when_they_changed(photos, dino, small, tmp_path):
    import shutil

    mine, work = shutil.copytree(photos, tmp_path / "mine"), tmp_path / "work"

    def call() -> int:
        attndistill.distil(mine, dino, SIZES, settings=small, work=work)
        return (work / "data/manifest.json").stat().st_mtime_ns

    first = call()
    assert call() == first
    (mine / "photo-001.png").unlink()
    for stale in ("targets", "seed-0"):  # another folder's answers and checkpoint are refused
        shutil.rmtree(work / stale)
    assert call() != first
    manifest = json.loads((work / "data/manifest.json").read_text())
    assert sum(part["count"] for part in manifest["splits"].values()) == 59


def test_photos_smaller_than_a_patch_are_refused_before_anything_is_trained(photos, dino, small, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(20):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(mine / f"{number}.png")
    with pytest.raises(ValueError, match=r"has a side of 4 px, smaller than a patch; allowed: 8 px or more"):
        attndistill.distil(mine, dino, SIZES, settings=small)

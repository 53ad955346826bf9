"""What a stage refuses before it computes: inputs that are not those its configuration speaks of."""

import json

import numpy as np
import pytest
import torch


def test_more_views_than_the_cache_holds_are_refused_naming_both(taught, stage):
    with pytest.raises(ValueError, match=r"targets.views is 3, but .*/targets holds 2: run `targets` again, or set "):
        stage("distill", "attndistill", **{"targets.views": 3})
    assert not list((taught / ".work").glob("distill-*"))


def test_answers_of_another_precision_than_a_rows_are_refused_naming_both(taught, stage):
    with pytest.raises(ValueError, match=r"/targets: cached for precision 'fp32', this run has 'bf16'; run `targets`"):
        stage("distill", "attndistill", **{"targets.precision": "bf16"})
    assert not list((taught / ".work").glob("distill-*"))


def test_a_student_learns_from_answers_in_bf16(taught, stage):
    stage("targets", **{"targets.precision": "bf16", "runtime.workers": 1})
    (manifest,) = taught.glob("experiments/smoke/outputs/targets/manifest.json")
    assert json.loads(manifest.read_text())["identity"]["precision"] == "bf16"
    stage("distill", "attndistill", **{"targets.precision": "bf16"})


def test_fewer_views_than_the_cache_holds_are_the_first_of_them(stage):
    stage("distill", "attndistill", **{"targets.views": 1})


@pytest.mark.parametrize(("name", "item"), [("probe", "teacher"), ("targets", ""), ("distill", "attndistill")])
def test_a_model_of_another_image_size_is_refused_before_torch_is_asked(stage, name, item):
    with pytest.raises(
        ValueError, match=r"pretrained/teacher was made for images of 32 px, and views.image_size is 16"
    ):
        stage(name, item, **{"views.image_size": 16})


def test_a_device_that_torch_does_not_see_is_refused_with_those_it_sees(stage, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^runtime.device is mps, but torch sees no such device; allowed here: auto"):
        stage("probe", "teacher", **{"runtime.device": "mps"})


@pytest.mark.parametrize(
    ("name", "item", "setting", "value"),
    [
        ("pretrain", "scratch", "student.embed_dim", 4_000_000 * 3),
        ("pretrain", "scratch", "student.depth", 10**9),
        ("pretrain", "teacher", "teacher.embed_dim", 4_000_000),
        ("pretrain", "scratch", "pretrain.decoder.embed_dim", 4_000_000),
        ("distill", "attndistill", "student.depth", 10**9),
        ("distill", "attndistill", "distill.projector_depth", 10**9),
    ],
)
def test_a_model_that_no_memory_holds_is_refused_before_it_is_built(stage, name, item, setting, value):
    section = setting.removesuffix(".embed_dim").removesuffix(".depth")
    with pytest.raises(
        ValueError, match=rf"^{section}: [\d,]+ parameters and their gradients take [\d,]+ GB, this machine has "
    ):
        stage(name, item, **{setting: value})


def flip(path, at):
    """Another bit, and the same size."""
    with path.open("r+b") as file:
        file.seek(at, 2 if at < 0 else 0)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("pretrain", "scratch"),
        ("targets", ""),
        ("distill", "attndistill"),
        ("probe", "teacher"),
        ("attention", "teacher"),
    ],
)
def test_one_flipped_bit_of_an_image_is_found_before_anything_is_computed(taught, stage, name, item, monkeypatch):
    flip(taught / "experiments/smoke/outputs/data" / f"{'test' if name == 'attention' else 'train'}-images.npy", -1)
    with pytest.raises(
        ValueError, match=r"images\.npy: its images_sha256 is \w+, the manifest says \w+; run prepare again$"
    ):
        stage(name, item)
    assert not list((taught / ".work").glob(f"{name}-*"))


@pytest.mark.parametrize(("name", "item"), [("targets", ""), ("distill", "attndistill"), ("probe", "teacher")])
def test_one_flipped_bit_of_the_teachers_weights_is_found_before_anything_is_computed(taught, stage, name, item):
    flip(taught / "experiments/smoke/outputs/pretrained/teacher/seed-0/model.safetensors", -1)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        stage(name, item)


@pytest.mark.parametrize(("name", "item"), [("targets", ""), ("probe", "teacher"), ("attention", "teacher")])
def test_another_number_of_heads_than_the_model_was_made_with_is_found_though_no_tensor_shows_it(
    taught, stage, name, item
):
    path = taught / "experiments/smoke/outputs/pretrained/teacher/seed-0/model.json"
    model = json.loads(path.read_text())
    model["vit"]["num_heads"] *= 2
    path.write_text(json.dumps(model))
    with pytest.raises(ValueError, match=r"model\.json: num_heads is 4, of the teacher of the settings 2: run "):
        stage(name, item)


def scaled(values):
    values[:] = values * np.float16(1.5)


def exchanged(values):
    values[:] = values[:, ::-1].copy()


def peaked(values):
    values[:] = -20
    values[..., 0] = 0


def one_infinite(values):
    values[1, 7] = np.inf


@pytest.mark.parametrize(
    ("field", "change"),
    [("cls_token", scaled), ("cls_token", exchanged), ("log_attention", peaked), ("cls_token", one_infinite)],
)
def test_cached_targets_that_are_not_the_teachers_answers_are_found_before_a_student_is_trained(
    taught, stage, field, change
):
    path = taught / f"experiments/smoke/outputs/targets/{field}.npy"
    values = np.load(path)
    change(values)
    np.save(path, values)
    with pytest.raises(
        ValueError, match=rf"{field}\.npy.* what .*teacher answers.*: remove the folder and run `targets`"
    ):
        stage("distill", "attndistill")
    assert not list((taught / ".work").glob("distill-*"))


def test_checking_inputs_changes_no_byte_of_a_student(taught, stage, monkeypatch):
    def trained():
        stage("distill", "attndistill")
        return json.loads((taught / "experiments/smoke/outputs/distilled/attndistill/seed-0/model.json").read_text())

    checked = trained()
    monkeypatch.setattr("attndistill.stages.soundness.check_inputs", lambda *given: None)
    assert trained() == checked


@pytest.mark.parametrize("listed", [False, True])
def test_labels_too_few_to_choose_by_are_refused_before_a_teacher_is_trained(taught, stage, listed):
    folder = taught / "experiments/smoke"
    (folder / "results/training/teacher.json").unlink(missing_ok=True)  # of somebody's `make smoke`
    labels = np.load(folder / "outputs/data/train-labels.npy")
    first = np.unique(labels, return_index=True)[1]
    names = (folder / "outputs/data/train-names.txt").read_text().splitlines()
    (folder / "few.txt").write_text("\n".join(names[place] for place in first))
    given = {"probe.labels.list_file": "few.txt"} if listed else {"probe.labels.fraction": 0.0001}
    said = r"^probe\.labels keeps 10 images, one a class: none is left to choose k and C on; allowed: two or more"
    with pytest.raises(ValueError, match=said):
        stage("pretrain", "teacher", **given)
    assert not (folder / "results/training/teacher.json").exists()


def test_pictures_beyond_the_test_split_are_refused_before_a_teacher_is_trained(taught, stage):
    folder = taught / "experiments/smoke"
    (folder / "results/training/teacher.json").unlink(missing_ok=True)  # of somebody's `make smoke`
    count = len(np.load(folder / "outputs/data/test-labels.npy"))
    said = rf"^attention\.images {count}: the test split has {count} images; allowed: 0 to {count - 1}$"
    with pytest.raises(ValueError, match=said):
        stage("pretrain", "teacher", **{"attention.images": [0, count]})
    assert not (folder / "results/training/teacher.json").exists()

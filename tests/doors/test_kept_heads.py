"""A head that is kept: the exported classifier, opened by timm, used by `predict`; and folders that are none."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

import attndistill
from attndistill.cli import main
from attndistill.config import nested
from attndistill.data.store import open_split, validation_indices
from attndistill.data.views import ViewRecipe
from attndistill.evaluations.classifiers import knn, logistic
from attndistill.evaluations.embedding import probe_data
from attndistill.experiments import open_experiment
from attndistill.handover.heads import fit_head
from attndistill.handover.judging import judge_forms
from attndistill.handover.models import open_finished
from attndistill.models.projector import Projector, Student
from attndistill.models.storage import load_model, save_model
from attndistill.models.vit import build_vit
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.5, "position": "sincos"}
CLASSES = ("eight", "one", "zero")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment on 90 digits of three classes, with a student that was never trained."""
    folder = tmp_path_factory.mktemp("experiment") / "mine"
    digits = load_digits()
    for kind, digit in zip(CLASSES, (8, 1, 0), strict=True):
        (folder / "photos" / kind).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(digits.target == digit)[:30]):
            picture = Image.fromarray((digits.images[index] * 15).astype(np.uint8)).convert("RGB").resize((36, 32))
            picture.save(folder / "photos" / kind / f"{kind}-{number:02d}.png")
    recipe = {"epochs": 2, "batch_size": 16, "base_learning_rate": 1e-2, "warmup_epochs": 0, "precision": "fp32"}
    recipe["optimizer"] = {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0}
    settings = {
        "seeds": [0],
        "data.set": {"name": "image_folder", "root": str(folder / "photos"), "test_fraction": 0.3},
        "student": SIZES,
        "probe.finetune": {"protocol": "mae-v1", "rates": [0.1, 1.0], "mixing_group": 2, "recipe": recipe},
        "runtime": {"tracking": False, "workers": 0, "threads": 1},
    }
    YAML().dump(nested(settings), folder / "params.yaml")
    (folder / "rows.yaml").write_text("rows:\n  attndistill:\n    label: AttnDistill\n    set: {}\n")
    experiment = open_experiment(folder)
    run_stage(experiment, STAGES["prepare"], Item(), {})
    student = Student(build_vit(32, 0, **SIZES), Projector(24, 24, 2, 0))
    save_model(experiment.layout.weights("attndistill", 0), student, image_size=32, vit=SIZES)
    return folder


@pytest.fixture(scope="module")
def classifier(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("exported") / "probe"
    return attndistill.export("attndistill", to, experiment=labelled, head="logistic", formats=["timm"])


def test_every_exported_form_has_the_k_nn_figure_of_this_package_on_its_card(labelled, tmp_path):
    finished = open_finished("attndistill", labelled, {})
    layout = open_experiment(labelled).layout
    train, test = (open_split(layout.data, split) for split in ("train", "test"))
    options = {"validation": validation_indices(layout.data), "classes": 3, "crop_share": 1.0, "batch_size": 64}
    data = probe_data(finished.backbone, train, test, finished.views, device=torch.device("cpu"), **options)
    wanted = f"{knn(data, **finished.config.probe.chosen()['knn']).top1:.2f} |"
    folder = attndistill.export("attndistill", tmp_path / "out", experiment=labelled)
    files = (folder / "README.md").read_text().partition("## Files")[2].splitlines()
    assert "k-NN top-1 (`knn/dino-v1`), 27 test images among 63 of train" in files[2]
    for line in files[4:7]:
        assert line.endswith(wanted), line


@pytest.mark.parametrize("headed", [False, True], ids=["features", "a head"])
def test_a_form_that_judges_photos_otherwise_is_refused_with_both_figures(headed, labelled, classifier):
    finished, head = open_finished("attndistill", labelled, {}), None
    if headed:
        finished, head = fit_head(finished, "logistic")
    width = 3 if headed else 24
    shuffled = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=r"model\.onnx: [\d.]+ on 27 test images, where this package has [\d.]+"):
        judge_forms(finished, {"model.onnx": lambda images: torch.randn(len(images), width, generator=shuffled)}, head)


def test_predict_is_right_as_often_as_the_probe_says(labelled, classifier, tmp_path, capsys):
    layout = open_experiment(labelled).layout
    config = open_experiment(labelled).config("attndistill", {})
    train, test = (open_split(layout.data, split) for split in ("train", "test"))
    backbone, _ = load_model(layout.weights("attndistill", 0))
    options = {"validation": validation_indices(layout.data), "classes": 3, "crop_share": 1.0, "batch_size": 64}
    data = probe_data(backbone, train, test, ViewRecipe.of(config.views), device=torch.device("cpu"), **options)
    wanted = logistic(data)
    to = tmp_path / "found.csv"
    assert main(["predict", str(labelled / "photos"), "--model", str(classifier), "--to", str(to)]) == 0
    assert "classes of 90 images" in capsys.readouterr().out
    lines = {line["name"]: line for line in csv.DictReader(to.open(newline=""))}
    right = [lines[Path(name).as_posix()]["label"] == Path(name).parent.name for name in test.names]
    assert 100 * np.mean(right) == pytest.approx(wanted.top1)
    assert f"{wanted.top1:.1f} % of the test images" in (classifier / "README.md").read_text()
    assert all(1 / 3 <= float(line["probability"]) <= 1 for line in lines.values())


def test_timm_opens_a_classifier_with_the_names_of_its_classes(classifier):
    model = timm.create_model(f"local-dir:{classifier}", pretrained=True).eval()
    assert model.num_classes == 3
    assert tuple(model.pretrained_cfg["label_names"]) == CLASSES
    features = timm.create_model(f"local-dir:{classifier}", pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.head(features(images)), model(images))


def test_a_fine_tuned_model_is_kept_with_its_head_and_norm(labelled, tmp_path, capsys):
    folder = attndistill.export(
        "attndistill", tmp_path / "tuned", experiment=labelled, head="finetune", formats=["pt2"]
    )
    held = load_file(folder / "model.safetensors")
    before, _ = load_model(open_experiment(labelled).layout.weights("attndistill", 0))
    assert {"fc_norm.weight", "head.weight"} <= set(held)
    assert not torch.equal(held["blocks.0.mlp.fc1.weight"], before.state_dict()["blocks.0.mlp.fc1.weight"])
    card = (folder / "README.md").read_text()
    assert "finetune/mae-v1" in card
    said = float(card.partition(" % of the test images")[0].rpartition(" ")[2])
    assert main(["predict", str(labelled / "photos"), "--model", str(folder)]) == 0
    lines = {line["name"]: line["label"] for line in csv.DictReader(capsys.readouterr().out.splitlines())}
    test = open_split(open_experiment(labelled).layout.data, "test")
    right = [lines[Path(name).as_posix()] == Path(name).parent.name for name in test.names]
    assert 100 * np.mean(right) == pytest.approx(said, abs=0.06)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attndistill", "--head", "linear"], "head 'linear'; allowed: logistic, finetune"),
        (
            ["{here}/alone", "--head", "logistic"],
            "is of no experiment",
        ),
        (["attndistill", "--head", "logistic", "--probe.logistic", "null"], "probe.logistic is off"),
    ],
)
def test_a_head_that_cannot_be_fitted_is_refused_in_one_line(words, said, labelled, tmp_path, capsys):
    shutil.copytree(open_experiment(labelled).layout.weights("attndistill", 0), tmp_path / "alone")
    command = ["export", *(word.format(here=tmp_path) for word in words), "--to", str(tmp_path / "new")]
    assert main([*command, "--experiment", str(labelled)]) == 2
    complaint = capsys.readouterr().err.splitlines()
    assert said in complaint[-1]
    assert not (tmp_path / "new").exists()


def told(folder: Path, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: told(folder, lambda c: c["model_args"].update(embed_dim=10**9)), "model_args.embed_dim"),
        (lambda folder: told(folder, lambda c: c["model_args"].update(depth=60_000)), "no model that timm can build"),
        (lambda folder: told(folder, lambda c: c.update(architecture="hf-hub:somebody/model")), "architecture"),
        (lambda folder: told(folder, lambda c: c.update(label_names=["one"])), "3 classes and 1 names"),
        (
            lambda folder: told(folder, lambda c: c["model_args"].update(weight_init="x")),
            "no model that timm can build",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 40), "no model that timm can build"),
        (lambda folder: (folder / "model.safetensors").unlink(), "does not exist"),
        (lambda folder: save_file({"head.bias": torch.zeros(3)}, folder / "model.safetensors"), "tensors of 0 blocks"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    ],
)
def test_a_folder_that_is_no_classifier_is_refused_in_one_line(spoil, said, classifier, labelled, tmp_path, capsys):
    folder = tmp_path / "spoilt"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((classifier / name).read_bytes())
    spoil(folder)
    assert main(["predict", str(labelled / "photos"), "--model", str(folder), "--to", str(tmp_path / "a.csv")]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{photos}", "--model", "{photos}"], "is no exported classifier"),
        (["{photos}/none", "--model", "{model}"], "does not exist"),
        (["{photos}", "--model", "{model}", "--to", "{here}/a.json"], "ends in .csv"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(words, said, labelled, classifier, tmp_path, capsys):
    names = {"photos": labelled / "photos", "model": classifier, "here": tmp_path}
    assert main(["predict", *(word.format(**names) for word in words)]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

"""An exported model opens where nobody has this package, and gives the same features."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from timm.models.vision_transformer import VisionTransformer

import attndistill
from attndistill.cli import main
from attndistill.drivers import dvc_file
from attndistill.experiments import open_experiment
from attndistill.models.projector import Projector, Student
from attndistill.models.readout import read_features
from attndistill.models.storage import save_model
from attndistill.models.vit import build_vit
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.5, "position": "sincos"}

ALONE = """
import importlib.util, os, sys
sys.path = [place for place in sys.path if not os.path.isdir(os.path.join(place, "attndistill"))]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
assert importlib.util.find_spec("attndistill") is None, "this package is here"
import numpy, timm, torch
images = torch.from_numpy(numpy.load({images!r}))
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
graph = torch.export.load("{folder}/model.pt2").module()
with torch.no_grad():
    numpy.savez({out!r}, timm=model(images), pt2=graph(images), side=config["input_size"][1], crop=config["crop_pct"])
"""


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(build_vit(32, 3, **SIZES), Projector(24, 64, 4, 3)).eval()


@pytest.fixture
def opened_alone(tmp_path: Path) -> Callable[[Path, torch.Tensor], dict]:
    """What a process without this package makes of an exported folder and images."""

    def run(folder: Path, images: torch.Tensor) -> dict:
        np.save(tmp_path / "images.npy", images.numpy())
        names = {"images": str(tmp_path / "images.npy"), "out": str(tmp_path / "out.npz"), "folder": folder}
        code = ALONE.format(**names)
        done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return dict(np.load(tmp_path / "out.npz"))

    return run


def test_an_exported_student_gives_the_same_features_where_this_package_is_not(student, tmp_path, opened_alone):
    settings = {"views.evaluation_crop": 0.875}
    folder = attndistill.export(student, tmp_path / "student", settings=settings, licence="cc-by-nc-4.0")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.pt2",
        "model.safetensors",
    ]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}  # others may read it
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 32, 32)
        found = opened_alone(folder, images)
        with torch.no_grad():
            wanted = read_features(student.backbone, images).cls_token.numpy()
        for form in ("timm", "pt2"):
            np.testing.assert_allclose(found[form], wanted, atol=1e-5)
        assert found["side"] == 32
        assert found["crop"] == 0.875
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
    assert "license: cc-by-nc-4.0" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "kind",
    [
        {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5},
        {"qk_norm": True},
        {"qkv_bias": False},
    ],
)
def test_released_kinds_of_vit_are_exported_too(kind, tmp_path, opened_alone):
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0, **kind).eval()
    folder = attndistill.export(vit, tmp_path / "teacher")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = read_features(vit, images).cls_token.numpy()
    np.testing.assert_allclose(opened_alone(folder, images)["timm"], wanted, atol=1e-5)


@pytest.mark.parametrize("timm_name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_a_teacher_by_timm_name_is_exported_by_that_name(timm_name, tmp_path):
    import timm

    model = timm.create_model(timm_name, num_classes=0, img_size=32).eval()
    save_model(tmp_path / "model", model, image_size=32, vit={"timm_name": timm_name, "image_size": 32})
    folder = attndistill.export(tmp_path / "model", tmp_path / "out")
    assert json.loads((folder / "config.json").read_text())["architecture"] == timm_name


def test_an_onnx_graph_takes_any_batch(student, tmp_path):
    import onnxruntime

    folder = attndistill.export(student, tmp_path / "student", formats=["onnx"])
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert not list(folder.glob("*.data"))
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            wanted = read_features(student.backbone, images).cls_token.numpy()
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], wanted, atol=1e-5)


def test_onnx_without_its_extra_is_refused_in_one_line_and_nothing_is_written(student, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'attndistill\[onnx\]'"):
        attndistill.export(student, tmp_path / "student", formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_in_one_line_and_nothing_is_written(student, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder"):
        attndistill.export(student, tmp_path / "full")
    with pytest.raises(ValueError, match="format 'gguf'; allowed: timm, pt2, onnx"):
        attndistill.export(student, tmp_path / "new", formats=["gguf"])
    for licence in ("mit\nlibrary_name: other", "", "#", "x" * 100):
        with pytest.raises(ValueError, match=r"^licence .*; allowed: [^\n]*$"):
            attndistill.export(student, tmp_path / "new", licence=licence)
    with pytest.raises(ValueError, match="no such file or folder"):
        attndistill.export(tmp_path / "nowhere", tmp_path / "new")
    odd = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1, num_classes=0, norm_layer=_loose_norm
    )
    with pytest.raises(ValueError, match="of no timm name"):
        attndistill.export(odd, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert (tmp_path / "full/mine.txt").read_text() == "mine"


def _loose_norm(width: int, **options: object) -> torch.nn.LayerNorm:
    return torch.nn.LayerNorm(width, eps=1e-3)


def test_a_row_is_exported_by_name_with_its_figures_and_digests_on_the_card(project, tmp_path):
    experiment = open_experiment(project())
    for name, item in (("prepare", ""), ("pretrain", "teacher"), ("targets", ""), ("distill", "attndistill")):
        run_stage(experiment, STAGES[name], Item(item), {})
    for name, item in (("probe", "attndistill"), ("attention", "teacher"), ("attention", "attndistill")):
        run_stage(experiment, STAGES[name], Item(item), {})
    folder = attndistill.export("attndistill", tmp_path / "out", experiment=experiment.folder)
    card = (folder / "README.md").read_text()
    manifest = json.loads((experiment.layout.data / "manifest.json").read_text())
    teacher = json.loads(experiment.layout.result("training", "teacher.json").read_text())["load"]
    for said in (
        manifest["digest"],
        teacher["sha256"],
        "agreement/cosine-5nn-v1",
        "without labels",
        "license: unknown",
    ):
        assert said in card
    first = (
        r"\n\d+ % of the teacher's parameters and \d+ % of its FLOPs, \S+ times as fast \(on .*, batches of 16\)\.\n"
    )
    assert re.search(first, card)
    assert "| 100.00 |" in card.partition("percent with the same nearest image, 6 test images among 54 of train")[2]
    picture = np.asarray(Image.open(folder / "attention.png"))
    assert "![Where the model looks](attention.png)" in card
    assert picture.shape == (3 * 174 - 6, 6 * 174 - 6, 3)  # photos, teacher, student
    assert (picture[:168] == picture[:168, :, :1]).all()  # these photos are grey, a map laid over them is not
    assert not (picture[348:] == picture[348:, :, :1]).all()
    same = attndistill.export(experiment.layout.model("attndistill"), tmp_path / "again", formats=["timm"])
    assert (same / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert "projector" not in json.dumps(list(_names(folder / "model.safetensors")))


def test_a_model_that_the_settings_hand_on_is_exported_by_a_stage_with_the_same_bytes_twice(project, capsys):
    folder = project(exports={"attndistill": {"formats": ["timm"], "licence": "cc-by-nc-4.0"}})
    assert main(["pipeline", "--experiment", str(folder)]) == 0
    exported = open_experiment(folder).layout.exported("attndistill")
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "attention.png",
        "config.json",
        "model.safetensors",
    ]
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert b"license: cc-by-nc-4.0" in before["README.md"]
    assert b"images a second" not in before["README.md"]  # those of the command differ each time
    assert main(["export", "--model", "attndistill", "--experiment", str(folder)]) == 0
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    stage = YAML(typ="safe").load(dvc_file(open_experiment(folder)))["stages"]["export_attndistill"]
    assert stage["cmd"] == "python -m attndistill export --model attndistill"
    assert {
        "params.yaml": ["seeds", "views", "student", "targets", "distill", "probe", "exports.attndistill"]
    } in stage["params"]
    assert stage["outs"] == ["outputs/exported/attndistill"]


@pytest.mark.parametrize(
    ("settings", "words", "said"),
    [
        ({"exports": {"nobody": {}}}, ["drivers"], "exports: unknown model 'nobody'; allowed: teacher, scratch"),
        ({"exports": {"teacher": {"formats": ["gguf"]}}}, ["drivers"], "exports.teacher.formats.0: 'gguf'; allowed: "),
        ({"exports": {"teacher": {"formats": []}}}, ["drivers"], "exports.teacher.formats"),
        ({"exports": {"teacher": {"to": "/"}}}, ["drivers"], "exports.teacher.to: unknown key"),
        ({}, ["export", "--model", "attndistill"], "unknown model 'attndistill'; allowed: none here"),
        ({}, ["export", "attndistill"], "takes a MODEL and --to FOLDER"),
        ({}, ["export", "--to", "there"], "takes a MODEL and --to FOLDER"),
        ({}, ["export", "--model", "attndistill", "--to", "there"], "--to beside --model"),
    ],
)
def test_an_export_that_cannot_be_is_refused_in_one_line(settings, words, said, project, capsys):
    assert main([*words, "--experiment", str(project(**settings))]) == 2
    message = capsys.readouterr().err.strip()
    assert said in message
    assert "\n" not in message


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())

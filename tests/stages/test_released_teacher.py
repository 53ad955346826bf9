"""A teacher from a checkpoint takes the place of the one pre-trained here, or stops the run before it costs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from attndistill.experiments import open_experiment
from attndistill.models.storage import load_model
from attndistill.pipeline import run_stage
from attndistill.stages.layout import Layout
from attndistill.stages.table import STAGES

ROOT = Path(__file__).parents[2]
SIZES = {"teacher.embed_dim": 64, "teacher.depth": 2, "teacher.num_heads": 1, "teacher.patch_size": 8}
QUIET = {"runtime.tracking": False, "runtime.processes": 1, "seeds": [0]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project at toy size with its data prepared, and a DINO checkpoint in it."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(ROOT / "experiments/smoke", root / "experiments/smoke")
    stage(root, "prepare")
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0)
    torch.save(vit.state_dict(), root / "dino.pth")
    return root


def stage(root: Path, name: str, item: str = "", **settings: object) -> Layout:
    run_stage(open_experiment(root, "experiments/smoke"), STAGES[name], item, QUIET | settings)
    return Layout(root, "smoke")


def take(root: Path, **more: object) -> Layout:
    source = {"name": "checkpoint", "path": str(root / "dino.pth")}
    return stage(root, "pretrain", "teacher", **{"teacher.source": source, **SIZES, **more})


def test_a_checkpoint_becomes_the_teacher_that_later_stages_use(root, capsys):
    layout = take(root, **{"teacher.check_floor": 0.1})
    said = capsys.readouterr().out
    assert "teacher   dino.pth (dino_backbone)" in said
    assert "self-check: k-NN of the class token" in said
    stored, _ = load_model(layout.weights("teacher", 0))
    assert torch.equal(stored.cls_token, torch.load(root / "dino.pth")["cls_token"])
    account = json.loads(layout.result("training", "teacher.json").read_text())
    assert account["load"]["format"] == "dino_backbone"
    assert account["self_check"]["pixels"] > 80
    settings = {**SIZES, "teacher.source": {"name": "checkpoint", "path": str(root / "dino.pth")}}
    for name, item in (("targets", ""), ("distill", "attndistill"), ("probe", "teacher"), ("probe", "attndistill")):
        stage(root, name, item, **settings)
    stage(root, "attention", "attndistill", **settings)
    stage(root, "report", **settings)
    page = (layout.report / "index.html").read_text()
    assert "Teacher (dino.pth)" in page
    assert "patch 8, learnable positions, released: dino.pth" in page  # params.yaml says sincos, of one trained here
    assert account["load"]["sha256"] in page


def test_a_teacher_below_the_floor_stops_the_run_and_nothing_is_stored(root):
    with pytest.raises(ValueError, match=r"self-check: k-NN of the class token .* Usual causes: views.mean"):
        take(root)
    shutil.rmtree(Layout(root, "smoke").model("teacher"), ignore_errors=True)
    with pytest.raises(ValueError, match=r"99.0 % recorded .*at least 94.0 % is asked for"):
        take(root, **{"teacher.check_floor": 0.0, "teacher.check_reference": 99.0})
    assert not Layout(root, "smoke").model("teacher").exists()
    assert take(root, **{"teacher.check": "off"}).model("teacher").exists()


def test_a_teacher_of_other_sizes_than_configured_is_refused_with_the_settings_that_fit(root):
    with pytest.raises(ValueError, match=r"teacher.depth is 3.*; set --teacher.depth 2"):
        take(root, **{"teacher.depth": 3})


def test_a_download_is_fetched_into_its_own_folder_by_its_digest(root):
    from hashlib import sha256

    published = root / "dino.pth"
    digest = sha256(published.read_bytes()).hexdigest()
    entry = {"url": published.as_uri(), "sha256": digest, "unpack": False}
    layout = stage(root, "fetch", "dino", downloads={"dino": entry})
    assert (layout.download("dino") / "dino.pth").read_bytes() == published.read_bytes()
    archive = Path(shutil.make_archive(str(root / "tree"), "zip", root / "experiments"))
    entry = {"url": archive.as_uri(), "sha256": sha256(archive.read_bytes()).hexdigest(), "unpack": True}
    stage(root, "fetch", "tree", downloads={"tree": entry})
    assert (layout.download("tree") / "smoke/rows.yaml").exists()
    with pytest.raises(ValueError, match="fetch: unknown download 'dino'; allowed: none here"):
        stage(root, "fetch", "dino")
    with pytest.raises(ValueError, match="its SHA-256 is"):
        stage(root, "fetch", "bad", downloads={"bad": {**entry, "sha256": "0" * 64}})
    assert not layout.download("bad").exists()

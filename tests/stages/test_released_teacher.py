"""A teacher from a checkpoint takes the place of the one pre-trained here, or stops the run before it costs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer

from attndistill.experiments import open_experiment
from attndistill.models.storage import load_model
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item
from attndistill.stages.layout import Layout

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
    run_stage(open_experiment(root / "experiments/smoke"), STAGES[name], Item(item), QUIET | settings)
    return Layout(root / "experiments/smoke", "smoke")


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
    for item in ("teacher", "attndistill"):
        stage(root, "attention", item, **settings)
    stage(root, "report", **settings)
    page = (layout.report / "index.html").read_text()
    assert "Teacher (dino.pth)" in page
    assert "patch 8, learnable positions, released: dino.pth" in page  # params.yaml says sincos, of one trained here
    assert account["load"]["sha256"] in page


def test_a_teacher_below_the_floor_stops_the_run_and_nothing_is_stored(root):
    with pytest.raises(ValueError, match=r"self-check: k-NN of the class token .* Usual causes: views.mean"):
        take(root)
    shutil.rmtree(Layout(root / "experiments/smoke", "smoke").model("teacher"), ignore_errors=True)
    with pytest.raises(ValueError, match=r"99.0 % recorded .*at least 94.0 % is asked for"):
        take(root, **{"teacher.check_floor": 0.0, "teacher.check_reference": 99.0})
    assert not Layout(root / "experiments/smoke", "smoke").model("teacher").exists()
    assert take(root, **{"teacher.check": "off"}).model("teacher").exists()


def digits_as_folders(directory: Path, split: str, images: slice, noise: bool) -> None:
    """scikit-learn's digits as ImageNet's layout has them: sorted by class."""
    bunch, draws = load_digits(), np.random.default_rng(0)
    for number, (pixels, label) in enumerate(zip(bunch.images[images], bunch.target[images], strict=True)):
        folder = directory / split / f"digit-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        grey = draws.integers(0, 256, (8, 8)) if noise else pixels * (255 / 16)
        Image.fromarray(grey.astype(np.uint8)).resize((32, 32)).save(folder / f"{number:04d}.png")


def folder_project(place: Path, noise: bool) -> Path:
    """A project whose data are images sorted by class, and a teacher that answers every image alike."""
    shutil.copy(ROOT / "params.yaml", place)
    shutil.copytree(ROOT / "experiments/smoke", place / "experiments/smoke")
    digits_as_folders(place / "tree", "train", slice(0, 600), noise)
    digits_as_folders(place / "tree", "val", slice(600, 700), noise)
    stage(place, "prepare", **{"data.set": {"name": "image_folder", "root": str(place / "tree")}})
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0)
    torch.save({name: torch.zeros_like(tensor) for name, tensor in vit.state_dict().items()}, place / "dino.pth")
    return place


def test_images_sorted_by_class_are_asked_about_by_all_classes_and_a_dead_teacher_is_refused(tmp_path):
    place = folder_project(tmp_path, noise=False)
    with pytest.raises(
        ValueError, match=r"of raw pixels (9\d|100)\.\d % \(5\d0 training images of 10 classes.* lowers what raw"
    ):
        take(place)
    with pytest.raises(
        ValueError, match=r"guessing reaches 13\.\d %\); at least 13\.\d %.* no setting lowers what guessing"
    ):
        take(place, **{"teacher.check_floor": 0.0})


def test_where_raw_pixels_tell_nothing_the_check_says_so_and_guessing_is_the_floor(tmp_path):
    place = folder_project(tmp_path, noise=True)
    said = r"raw pixels are no better than guessing here and bound nothing\); at least 13\.\d % is asked for"
    with pytest.raises(ValueError, match=said):
        take(place)


def screening_project(place: Path, few: int, *, dead: bool) -> Path:
    """Two classes told by brightness, 300 : few; four of the 300 look like the others."""
    shutil.copy(ROOT / "params.yaml", place)
    shutil.copytree(ROOT / "experiments/smoke", place / "experiments/smoke")
    draws = np.random.default_rng(1)
    for split, counts in {"train": (300, few), "val": (20, 4)}.items():
        for name, count in zip(("healthy", "ill"), counts, strict=True):
            (place / "tree" / split / name).mkdir(parents=True)
            for number in range(count):
                bright = name == "ill" or number % 75 == 7
                pixels = draws.normal(200 if bright else 50, 15, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / "tree" / split / name / f"{number}.png")
    stage(place, "prepare", **{"data.set": {"name": "image_folder", "root": str(place / "tree")}})
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0)
    state = {name: torch.zeros_like(tensor) if dead else tensor for name, tensor in vit.state_dict().items()}
    torch.save(state, place / "dino.pth")
    return place


@pytest.mark.parametrize("few", [12, 3])
def test_imbalanced_classes_are_asked_about_in_balance_and_a_teacher_that_sees_them_passes(few, tmp_path, capsys):
    assert take(screening_project(tmp_path, few, dead=False)).model("teacher").exists()
    assert f"({2 * few} training images of 2 classes" in capsys.readouterr().out


def test_a_dead_teacher_of_imbalanced_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(24 training images of 2 classes, k = 9, guessing reaches 75\.0 %"):
        take(screening_project(tmp_path, 12, dead=True))


def test_a_class_of_one_image_leaves_nothing_to_check_and_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"fewer than two classes have two training images; allowed: .*check off"):
        take(screening_project(tmp_path, 1, dead=False))


def test_with_more_classes_than_images_allow_some_classes_are_asked_about_and_counted(root):
    settings = {"teacher.check_images": 90, "teacher.check_floor": 0.0, "teacher.check_reference": 100.0}
    with pytest.raises(ValueError, match=r"\(90 training images of 6 of 10 classes, k = 10, "):
        take(root, **settings)


def test_the_sizes_of_a_released_teacher_are_its_files_whatever_the_settings_say(root):
    experiment = open_experiment(root / "experiments/smoke")
    source = {"name": "checkpoint", "path": str(root / "dino.pth"), "num_heads": 1}
    config = experiment.config(
        "", {"teacher.depth": 3, "teacher.embed_dim": 12, "teacher.num_heads": 3, "teacher.source": source}
    )
    assert (config.teacher.embed_dim, config.teacher.depth, config.teacher.num_heads) == (64, 2, 1)


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

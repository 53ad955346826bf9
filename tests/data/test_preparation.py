"""What `prepare` writes, and which data sets it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attndistill.core.artifacts import digest_of, read_json, write_json
from attndistill.data.preparation import prepare
from attndistill.data.sources import ArraySplit, Source
from attndistill.data.store import ArrayImages, open_split

Prepare = Callable[..., dict[str, Any]]


def shades(labels: list[int], first: int) -> ArraySplit:
    """4x4 images, each of a shade of its own."""
    names = [f"shade-{first + position}" for position in range(len(labels))]
    return ArraySplit(
        np.array(labels, np.int64), names, lambda position: np.full((4, 4, 3), first + position, np.uint8)
    )


def two_classes() -> Source:
    return Source(("ant", "bee"), {"train": shades([0, 1, 1, 0, 1], 10), "test": shades([1, 0], 50)})


def run(source: Source, to: Path) -> dict:
    return prepare(source, to, validation_fraction=0.4, split_seed=0)


def test_images_labels_and_names_stay_together(tmp_path: Path) -> None:
    manifest = run(two_classes(), tmp_path / "out")
    images = open_split(tmp_path / "out", "train")
    assert images.labels.tolist() == [0, 1, 1, 0, 1]
    assert images.names == [f"shade-{10 + position}" for position in range(5)]
    assert isinstance(images, ArrayImages)
    assert images.images[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14]
    assert manifest["splits"]["train"]["per_class"] == {"ant": 2, "bee": 3}
    assert manifest == read_json(tmp_path / "out" / "manifest.json")


@pytest.mark.parametrize("change", ["pixel", "label", "name", "class name", "order"])
def test_the_digest_sees_every_change_of_the_content(tmp_path: Path, change: str) -> None:
    base = two_classes()
    train = base.splits["train"]
    changed = {
        "pixel": ArraySplit(train.labels, train.names, lambda i: train.image(i) + np.uint8(i == 4)),
        "label": ArraySplit(np.array([1, 0, 1, 0, 1]), train.names, train.image),
        "name": ArraySplit(train.labels, ["other", *train.names[1:]], train.image),
        "class name": train,
        "order": train.subset(np.array([0, 1, 2, 4, 3])),
    }[change]
    names = ("ant", "wasp") if change == "class name" else base.class_names
    source = Source(names, {**base.splits, "train": changed})
    assert run(source, tmp_path / "a")["digest"] != run(base, tmp_path / "b")["digest"]


def test_the_digest_is_not_of_the_choices_beside_the_content(tmp_path: Path) -> None:
    first = prepare(two_classes(), tmp_path / "a", validation_fraction=0.4, split_seed=0)
    second = prepare(two_classes(), tmp_path / "b", validation_fraction=0.6, split_seed=1)
    assert first["digest"] == second["digest"]
    assert digest_of(first) != digest_of(second)


def test_validation_is_a_seeded_share_of_every_training_class(prepare_set: Prepare, tmp_path: Path) -> None:
    manifests = [prepare_set("digits", {}, to=to, split_seed=seed) for to, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, again, other = (np.load(tmp_path / to / "train-validation.npy") for to in "abc")
    labels = open_split(tmp_path / "a", "train").labels
    sizes = np.bincount(labels)
    np.testing.assert_allclose(np.bincount(labels[first]), sizes * 0.2, atol=0.5)
    assert len(np.unique(first)) == len(first) == manifests[0]["validation"]["count"]
    np.testing.assert_array_equal(first, np.sort(first))
    np.testing.assert_array_equal(first, again)
    assert len(np.intersect1d(first, other)) < len(first) / 2


def test_validation_leaves_training_an_image_of_every_class(tmp_path: Path) -> None:
    prepare(two_classes(), tmp_path / "out", validation_fraction=0.9, split_seed=0)
    chosen = np.load(tmp_path / "out" / "train-validation.npy")
    assert np.bincount(open_split(tmp_path / "out", "train").labels[chosen]).tolist() == [1, 2]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2])
def test_a_validation_part_that_is_none_or_all_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match=f"validation fraction {fraction} is not allowed"):
        prepare(two_classes(), tmp_path / "out", validation_fraction=fraction, split_seed=0)


def test_bad_images_are_skipped_before_classes_are_counted(tree: Path, prepare_set: Prepare) -> None:
    for path in (tree / "val" / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="class 'bee' has images in train but none in test"):
        prepare_set("image_folder", {"root": str(tree)}, on_bad_image="skip")


def test_a_class_in_one_split_only_is_refused_by_name(tree: Path, prepare_set: Prepare) -> None:
    shutil.copytree(tree / "val" / "bee", tree / "val" / "wasp")
    with pytest.raises(ValueError, match=r"class 'wasp' has images in test but none in train; .* by a class_list"):
        prepare_set("image_folder", {"root": str(tree)})
    (tree / "list.txt").write_text("bee\nant\n")
    assert prepare_set("image_folder", {"root": str(tree), "class_list": str(tree / "list.txt")})


def test_an_empty_class_is_refused_by_name(tree: Path, prepare_set: Prepare) -> None:
    (tree / "train" / "moth").mkdir()
    with pytest.raises(ValueError, match="class 'moth' has no images"):
        prepare_set("image_folder", {"root": str(tree)})


def test_a_single_class_is_refused(tree: Path, prepare_set: Prepare) -> None:
    for split in ("train", "val"):
        shutil.rmtree(tree / split / "bee")
    with pytest.raises(ValueError, match="single class 'ant'; at least two are wanted"):
        prepare_set("image_folder", {"root": str(tree)})


def test_a_failure_leaves_the_earlier_data_and_nothing_else(tree: Path, prepare_set: Prepare, tmp_path: Path) -> None:
    before = prepare_set("image_folder", {"root": str(tree)})
    (tree / "train" / "bee" / "bad.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="1 bad images"):
        prepare_set("image_folder", {"root": str(tree)})
    assert read_json(tmp_path / "prepared" / "manifest.json") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "tree"]


def test_array_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    base = two_classes()
    train = base.splits["train"]
    odd = ArraySplit(train.labels, train.names, lambda i: np.zeros((4, 4 + (i == 3), 3), np.uint8))
    with pytest.raises(ValueError, match=r"image shade-13 is \(4, 5, 3\); the others are \(4, 4, 3\)"):
        run(Source(base.class_names, {**base.splits, "train": odd}), tmp_path / "out")


def test_progress_is_told_after_every_image(tree: Path, prepare_set: Prepare) -> None:
    told: list[tuple[str, int, int]] = []
    prepare_set("image_folder", {"root": str(tree)}, progress=lambda *what: told.append(what))
    assert told == [("train", done, 12) for done in range(1, 13)] + [("test", done, 6) for done in range(1, 7)]


def test_names_with_accents_survive(tree: Path, prepare_set: Prepare, tmp_path: Path) -> None:
    (tree / "train" / "bee" / "bee_0.JPEG").rename(tree / "train" / "bee" / "Große Biene é.JPEG")
    prepare_set("image_folder", {"root": str(tree)})
    assert "bee/Große Biene é.JPEG" in open_split(tmp_path / "prepared", "train").names


class TestOpening:
    """What `open_split` refuses."""

    def test_a_split_that_is_not_there(self, tmp_path: Path) -> None:
        run(two_classes(), tmp_path / "out")
        with pytest.raises(ValueError, match="has no split 'val'; it has test, train"):
            open_split(tmp_path / "out", "val")

    def test_data_that_was_never_prepared(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"manifest.json does not exist: run the stage that makes it first"):
            open_split(tmp_path, "train")

    def test_another_format(self, tmp_path: Path) -> None:
        manifest = run(two_classes(), tmp_path / "out")
        write_json(tmp_path / "out" / "manifest.json", {**manifest, "format": "attndistill-data/9"})
        with pytest.raises(
            ValueError, match=r"manifest.json: format: .*'attndistill-data/1' \(given 'attndistill-data/9'\)"
        ):
            open_split(tmp_path / "out", "train")

    def test_labels_of_another_set(self, tmp_path: Path) -> None:
        run(two_classes(), tmp_path / "out")
        np.save(tmp_path / "out" / "train-labels.npy", np.zeros(3, np.int64))
        with pytest.raises(
            ValueError, match=r"train-labels.npy: int64 \(3,\), the manifest says int64 \(5,\); run prepare again"
        ):
            open_split(tmp_path / "out", "train")

    def test_pickled_objects_in_place_of_labels_are_never_loaded(self, tmp_path: Path) -> None:
        run(two_classes(), tmp_path / "out")
        np.save(tmp_path / "out" / "train-labels.npy", np.array([{}] * 5, object), allow_pickle=True)
        with pytest.raises(ValueError, match=r"train-labels\.npy cannot be read .*Python objects"):
            open_split(tmp_path / "out", "train")

    def test_images_that_are_no_8_bit_colour_pictures(self) -> None:
        with pytest.raises(ValueError, match=r"must be uint8 \(N, H, W, 3\), not float64"):
            ArrayImages(np.zeros((1, 2, 2, 3)), np.zeros(1, np.int64), ["a"])


def test_a_png_of_16_bits_goes_through_the_whole_chain(tree: Path, prepare_set: Prepare, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 257 * 100, np.uint16)).save(tree / "train" / "ant" / "deep.png")
    prepare_set("image_folder", {"root": str(tree)})
    images = open_split(tmp_path / "prepared", "train")
    from attndistill.data.views import evaluation_boxes

    index = np.array([images.names.index("ant/deep.png")])
    crop = images.crops(index, evaluation_boxes(*images.sizes(index), 1.0), 8)
    assert (crop == 100 / 255).all()

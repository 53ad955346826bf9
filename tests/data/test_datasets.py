"""Every registered data set, by discovery; and what each refuses."""

import gzip
import inspect
import json
import os
import shutil
import struct
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from attndistill.data import DATASETS, torchvision_sets
from attndistill.data.manifest import read_manifest
from attndistill.data.preparation import prepare
from attndistill.data.sources import FileSplit, class_list_digest, open_source
from attndistill.data.store import ArrayImages, open_split

Prepare = Callable[..., dict[str, Any]]


def write_idx(path: Path, array: np.ndarray) -> None:
    data = (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mnist_files(root: Path, suffix: str = "") -> None:
    """The MNIST family's four files, of 10 classes."""
    root.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 12)):
        write_idx(root / f"{prefix}-images-idx3-ubyte{suffix}", generator.integers(0, 256, (count, 9, 7)))
        write_idx(root / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)


@pytest.fixture
def offline(tmp_path: Path, tree: Path) -> dict[str, dict[str, Any]]:
    """Options with which each registered set runs without a network."""
    mnist_files(tmp_path / "idx")
    mnist_files(tmp_path / "named" / "KMNIST" / "raw")
    return {
        "digits": {},
        "idx": {"root": str(tmp_path / "idx")},
        "image_folder": {"root": str(tree)},
        "photos": {"root": str(tree)},
        "torchvision": {"set_name": "KMNIST", "root": str(tmp_path / "named")},
    }


@pytest.mark.parametrize("name", DATASETS.names())
def test_what_the_text_declares_is_what_is_registered(name: str) -> None:
    signature = inspect.signature(DATASETS[name]).parameters.values()
    hints = typing.get_type_hints(DATASETS[name], include_extras=True)
    declared = {option.name: option for option in DATASETS.declared()[name]}
    assert [parameter.name for parameter in signature] == list(declared)
    for parameter in signature:
        option = declared[parameter.name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert option.required == (parameter.default is inspect.Parameter.empty)
        assert option.required or option.default == parameter.default
        assert str(option.annotation) == str(hints[parameter.name])
        assert f"{parameter.name}:" in (inspect.getdoc(DATASETS[name]) or "")
    assert name == "photos" or declared["class_list"].default is None
    assert "name" not in declared  # in a configuration that is the data set's own


def test_the_source_text_declares_every_registered_set_and_no_other() -> None:
    assert DATASETS["digits"]
    every = {"digits", "idx", "image_folder", "photos", "torchvision"}
    assert set(DATASETS._entries) == set(DATASETS.names()) == every


@pytest.mark.parametrize("name", DATASETS.names())
def test_preparing_twice_gives_the_same_bytes(
    name: str, offline: dict[str, dict[str, Any]], prepare_set: Prepare, tmp_path: Path
) -> None:
    first, second = (prepare_set(name, offline[name], to=to, workers=n) for to, n in (("one", 1), ("two", 3)))
    assert first == second == read_manifest(tmp_path / "one")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert str(tmp_path) not in (tmp_path / "one" / "manifest.json").read_text()
    for split in ("train", "test"):
        images = open_split(tmp_path / "one", split)
        assert len(images) == first["splits"][split]["count"] == len(set(images.names))
        assert np.bincount(images.labels).tolist() == list(first["splits"][split]["per_class"].values())


@pytest.mark.parametrize("name", [name for name in DATASETS.names() if name != "photos"])
def test_a_class_list_restricts_and_orders(
    name: str, offline: dict[str, dict[str, Any]], prepare_set: Prepare, tmp_path: Path
) -> None:
    whole = prepare_set(name, offline[name], to="whole")
    wanted = [whole["class_names"][1], whole["class_names"][0]]
    (tmp_path / "list.txt").write_text("\r\n".join([*wanted, ""]), encoding="utf-8-sig")  # as Windows saves it
    some = prepare_set(name, {**offline[name], "class_list": str(tmp_path / "list.txt")})
    assert some["class_names"] == wanted
    assert some.get("left_out_classes", []) == whole["class_names"][2:]
    assert "left_out_classes" not in whole
    assert some["class_list_sha256"] == class_list_digest(wanted) != whole["class_list_sha256"]
    for split in ("train", "test"):
        ours, theirs = open_split(tmp_path / "prepared", split), open_split(tmp_path / "whole", split)
        kept = {n: 1 - label for n, label in zip(theirs.names, theirs.labels, strict=True) if label < 2}
        assert dict(zip(ours.names, ours.labels, strict=True)) == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\nunicorn\n1\n", "1 of 3 classes are not in the data set: unicorn; it has 0, 1, 2, 3, 4 and 5 more"),
        ("\n\n", "is empty"),
        ("3\n4\n3\n", "repeats 3"),
    ],
)
def test_a_wrong_class_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source("digits", {"class_list": str(tmp_path / "list.txt")})


def test_a_missing_class_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read: .*No such file"):
        open_source("digits", {"class_list": str(tmp_path / "absent.txt")})


def test_the_digest_of_a_class_list_is_its_own_sha256sum() -> None:
    # printf 'ant\nbee\n' | sha256sum
    assert class_list_digest(["ant", "bee"]) == "5af72b344154f4a3b142eba43ed0346cd22f27200a0d45e7f6d83369d2dce655"


@pytest.mark.parametrize("file", ["train-labels.npy", "train-names.txt", "train-index.npy"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_missing_or_broken_file_of_a_prepared_set_is_named(
    file: str, damage: str, tree: Path, prepare_set: Prepare, tmp_path: Path
) -> None:
    prepare_set("image_folder", {"root": str(tree)})
    path = tmp_path / "prepared" / file
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(whole[: 100 if damage == "cut" else 0])
    with pytest.raises(ValueError, match=f"(prepared/{file}[: ].*|prepared: .*)run prepare again"):
        open_split(tmp_path / "prepared", "train")


def test_digits_are_scikit_learns_enlarged_and_fixed_for_ever(prepare_set: Prepare, tmp_path: Path) -> None:
    manifest = prepare_set("digits", {})
    train, test = (open_split(tmp_path / "prepared", split) for split in ("train", "test"))
    assert isinstance(train, ArrayImages)
    assert (len(train), len(test)) == (1258, 539)
    assert sorted([*train.names, *test.names]) == [f"digit-{number:04d}" for number in range(1797)]
    bunch = load_digits()
    for position in (0, 700, 1257):
        original = int(train.names[position].removeprefix("digit-"))
        assert train.labels[position] == bunch.target[original]
        grey = Image.fromarray((bunch.images[original] * 255 / 16).round().astype(np.uint8))
        enlarged = np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(train.images[position], enlarged[:, :, None].repeat(3, axis=2))
    assert manifest["digest"] == "35f796f653fb6e3971dd1f4f1609822b992add666939f9e085c8e02013c0fa82"


def test_the_split_seed_and_share_of_digits_are_obeyed() -> None:
    base, seeded, half = (open_source("digits", options) for options in ({}, {"split_seed": 1}, {"test_fraction": 0.5}))
    assert set(base.splits["test"].names) != set(seeded.splits["test"].names)
    assert len(half.splits["test"].names) == pytest.approx(1797 / 2, abs=5)
    assert base.options == {"size": 32, "test_fraction": 0.3, "split_seed": 0}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_images_and_labels_arrive_unchanged(tmp_path: Path, suffix: str) -> None:
    mnist_files(tmp_path / "idx", suffix)
    split = open_source("idx", {"root": str(tmp_path / "idx")}).splits["train"]
    wanted = np.random.default_rng(0).integers(0, 256, (30, 9, 7))
    for position in (0, 29):
        np.testing.assert_array_equal(split.image(position), wanted[position][:, :, None].repeat(3, axis=2))
    assert split.labels.tolist() == (np.arange(30) % 10).tolist()


def test_torchvision_reads_what_our_own_reader_reads(offline: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    theirs = open_source("torchvision", offline["torchvision"])
    ours = open_source("idx", {"root": str(tmp_path / "named" / "KMNIST" / "raw")})
    assert theirs.class_names[:3] == ("o", "ki", "su")
    for split in ("train", "test"):
        np.testing.assert_array_equal(theirs.splits[split].labels, ours.splits[split].labels)
        for position in range(12):
            np.testing.assert_array_equal(theirs.splits[split].image(position), ours.splits[split].image(position))


def food(root: Path) -> None:
    """Food-101's layout, with two dishes."""
    for dish in ("apple_pie", "waffles"):
        (root / "food-101" / "images" / dish).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (10 + number, 9), (40 * number, 0, 0)).save(
                root / "food-101/images" / dish / f"{number}.jpg"
            )
    (root / "food-101" / "meta").mkdir()
    for split, numbers in (("train", (3, 0, 1)), ("test", (2, 4))):
        listed = {dish: [f"{dish}/{number}" for number in numbers] for dish in ("waffles", "apple_pie")}
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(listed))


def test_a_torchvision_set_of_files_keeps_the_original_files(tmp_path: Path, prepare_set: Prepare) -> None:
    food(tmp_path / "root")
    prepare_set("torchvision", {"set_name": "Food101", "root": str(tmp_path / "root")})
    images = open_split(tmp_path / "prepared", "train")
    assert [n.removeprefix("food-101/images/") for n in images.names[:3]] == [f"waffles/{i}.jpg" for i in (3, 0, 1)]
    assert images.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert images.encoded(0) == (tmp_path / "root" / images.names[0]).read_bytes()


def test_the_pet_set_without_a_loader_argument_works_too(tmp_path: Path) -> None:
    base = tmp_path / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    (base / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_2 2 2 1\n")
    (base / "annotations" / "test.txt").write_text("beagle_7 2 2 1\nAbyssinian_3 1 1 1\n")
    source = open_source("torchvision", {"set_name": "OxfordIIITPet", "root": str(tmp_path)})
    assert source.class_names == ("Abyssinian", "Beagle")
    assert source.splits["test"].names == [
        "oxford-iiit-pet/images/beagle_7.jpg",
        "oxford-iiit-pet/images/Abyssinian_3.jpg",
    ]
    assert source.splits["test"].labels.tolist() == [1, 0]


def test_every_offered_torchvision_set_exists_there_and_is_one_of_the_table() -> None:
    from torchvision import datasets

    (option,) = (option for option in DATASETS.declared()["torchvision"] if option.name == "set_name")
    assert set(typing.get_args(option.annotation)) == set(torchvision_sets.ARRAYS) | set(torchvision_sets.FILES)
    for name in torchvision_sets.FILES:
        takes = inspect.signature(getattr(datasets, name)).parameters
        assert ("loader" in takes) == (name != "OxfordIIITPet")
        for part in torchvision_sets.FILES[name].values():
            assert all(set(options) <= set(takes) for options in part)


@pytest.mark.parametrize("name", sorted(torchvision_sets.ARRAYS | torchvision_sets.FILES))
def test_a_named_set_that_is_not_there_is_refused_without_a_download(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"torchvision's {name} under .*: .*[Dd]ataset not found"):
        open_source("torchvision", {"set_name": name, "root": str(tmp_path)})


def test_an_unknown_data_set_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match="unknown data set 'imagenet'; allowed: digits, image_folder, photos, idx, torchvision"
    ):
        open_source("imagenet", {})


class TestImageFolder:
    """Layouts, and what is refused of them."""

    def test_classes_are_the_folders_and_files_below_them_the_images(self, tree: Path) -> None:
        nested = tree / "train" / "bee" / "more"
        nested.mkdir()
        shutil.copy(tree / "train" / "ant" / "ant_0.JPEG", nested / "x.JPEG")
        (tree / "train" / "bee" / ".DS_Store").write_bytes(b"?")
        source = open_source("image_folder", {"root": str(tree)})
        split = source.splits["train"]
        assert source.class_names == ("ant", "bee")
        assert split.names[:2] == ["ant/ant_0.JPEG", "ant/ant_1.png"]
        assert split.names[-1] == "bee/more/x.JPEG"
        assert split.labels.tolist() == [0] * 6 + [1] * 7

    def test_linked_folders_are_followed_and_loops_are_not(self, tree: Path) -> None:
        (tree / "train" / "ant").rename(tree / "elsewhere")
        (tree / "train" / "ant").symlink_to(tree / "elsewhere")
        (tree / "elsewhere" / "loop").symlink_to(tree / "elsewhere")
        split = open_source("image_folder", {"root": str(tree)}).splits["train"]
        assert [name for name in split.names if name.startswith("ant")] == [
            f"ant/{p.name}" for p in sorted((tree / "elsewhere").glob("ant_*"))
        ]

    def test_links_in_a_circle_and_files_beside_the_classes_are_named(self, tree: Path, prepare_set: Prepare) -> None:
        for place in (tree / "train", tree / "train" / "bee"):
            (place / "loop").symlink_to("loop")
        (tree / "val" / "README.txt").write_text("read me")
        (tree / "train" / "ant" / "ant_0.JPEG").rename(tree / "train" / "ant_0.JPEG")
        with pytest.raises(ValueError, match="4 bad images") as caught:
            prepare_set("image_folder", {"root": str(tree)})
        for said in (
            f"{tree}/train/loop: it lies in no class folder",
            f"{tree}/train/ant_0.JPEG: it lies in no class folder",
            f"{tree}/val/README.txt: it lies in no class folder",
            f"{tree}/train/bee/loop: ",
        ):
            assert said in str(caught.value)
        manifest = prepare_set("image_folder", {"root": str(tree)}, on_bad_image="skip")
        assert manifest["splits"]["train"]["per_class"] == {"ant": 5, "bee": 6}
        assert manifest["bad_images"]["count"] == 4

    def test_files_beside_the_classes_of_an_unsplit_tree_are_named_once(self, tree: Path, prepare_set: Prepare) -> None:
        (tree / "train" / "labels.csv").write_text("")
        with pytest.raises(ValueError, match=r"1 bad images.*\n.*labels\.csv: it lies in no class folder"):
            prepare_set("image_folder", {"root": str(tree / "train"), "test_fraction": 0.34})

    def test_a_folder_that_cannot_be_read_is_named(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.scandir

        def closed(path: Any) -> Any:
            if Path(path).name == "bee":
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", closed)
        with pytest.raises(ValueError, match=r"folder .*train/bee cannot be read \(Permission denied\)"):
            open_source("image_folder", {"root": str(tree)})

    def test_a_tree_without_a_split_is_cut_by_class(self, tree: Path) -> None:
        options = {"root": str(tree / "train"), "test_fraction": 0.34}
        splits = open_source("image_folder", options).splits
        assert [np.bincount(splits[name].labels).tolist() for name in ("train", "test")] == [[4, 4], [2, 2]]
        assert not set(splits["train"].names) & set(splits["test"].names)
        again = open_source("image_folder", {**options, "split_seed": 5}).splits
        assert again["test"].names != splits["test"].names

    def test_of_val_and_test_the_one_that_is_named_is_taken(self, tree: Path) -> None:
        shutil.copytree(tree / "val", tree / "test")
        (tree / "test" / "ant" / "ant_0.JPEG").unlink()
        with pytest.raises(ValueError, match="both val and test to test on; name the folder with test_folder"):
            open_source("image_folder", {"root": str(tree)})
        split = open_source("image_folder", {"root": str(tree), "test_folder": "test"}).splits["test"]
        assert isinstance(split, FileSplit)
        assert (split.root, len(split.names)) == (tree / "test", 5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"test_folder": "exam"}, "none of exam to test on"),
            ({"test_fraction": 0.2}, "has a folder 'train': a test_fraction is for trees that are not split"),
            ({"test_fraction": 0.2, "test_folder": "val"}, "exclude each other"),
        ],
    )
    def test_options_that_do_not_fit_the_tree_are_refused(
        self, tree: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            open_source("image_folder", {"root": str(tree), **options})

    def test_a_test_folder_of_unsorted_images_is_refused(self, tree: Path) -> None:
        (tree / "val" / "ant").rename(tree / "val" / "images")  # as Tiny-ImageNet has them
        shutil.rmtree(tree / "val" / "bee")
        with pytest.raises(ValueError, match=r"val has none of the classes of train, but images: sort its images into"):
            open_source("image_folder", {"root": str(tree)})

    def test_a_tree_that_is_none_is_refused(self, tmp_path: Path, tree: Path) -> None:
        with pytest.raises(ValueError, match="has no folder 'train'"):
            open_source("image_folder", {"root": str(tmp_path / "absent")})
        with pytest.raises(ValueError, match="absent is not a folder"):
            open_source("image_folder", {"root": str(tmp_path / "absent"), "test_fraction": 0.5})
        shutil.rmtree(tree / "val")
        (tree / "val").mkdir()
        (tree / "val" / "flat.JPEG").write_bytes(b"")
        with pytest.raises(ValueError, match=r"val has no class folders \(1 files lie in it directly\)"):
            open_source("image_folder", {"root": str(tree)})

    def test_a_class_of_one_image_cannot_be_split(self, tmp_path: Path) -> None:
        for name, count in (("ant", 3), ("bee", 1)):
            (tmp_path / "t" / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / "t" / name / f"{number}.png").write_bytes(b"")
        source = open_source("image_folder", {"root": str(tmp_path / "t"), "test_fraction": 0.5})
        with pytest.raises(ValueError, match=r"class 'bee' has images in train but none in test; .* by a class_list"):
            prepare(source, tmp_path / "out", validation_fraction=0.2, split_seed=0)

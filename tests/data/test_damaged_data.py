"""Prepared data that were changed since: found at opening, or by `verify_data`; one line names file and field."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attndistill.data.arrays import read_array
from attndistill.data.manifest import Manifest, read_manifest
from attndistill.data.store import open_split, validation_indices, verify_data
from attndistill.data.views import evaluation_boxes

Prepare = Callable[..., dict[str, Any]]


@pytest.fixture
def arrays(prepare_set: Prepare, tmp_path: Path) -> Path:
    prepare_set("digits", {"size": 8})
    return tmp_path / "prepared"


@pytest.fixture
def shards(tree: Path, prepare_set: Prepare, tmp_path: Path) -> Path:
    prepare_set("image_folder", {"root": str(tree)}, to="shards")
    return tmp_path / "shards"


def change_array(path: Path, change: Callable[[np.ndarray], Any]) -> None:
    array = np.load(path)
    changed = change(array)
    np.save(path, array if changed is None else changed)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_whole_data_pass_and_so_do_files_that_a_killed_process_left_beside(arrays: Path, shards: Path) -> None:
    for directory in (arrays, shards):
        (directory / ".train-labels-x1y2.npy").write_bytes(b"half")
        verify_data(directory)
        assert len(validation_indices(directory)) == read_manifest(directory)["validation"]["count"]


LABELS: dict[str, Callable[[np.ndarray], Any]] = {
    "permuted": lambda a: a[::-1],
    "out of range": lambda a: np.where(np.arange(len(a)) == 3, 10, a),
    "negative": lambda a: np.where(np.arange(len(a)) == 3, -1, a),
    "another type": lambda a: a.astype(np.int32),
    "floats": lambda a: a.astype(float),
    "too few": lambda a: a[:-1],
    "two dimensions": lambda a: a[:, None],
    "one changed": lambda a: np.where(np.arange(len(a)) == 3, (a + 1) % 10, a),
}


@pytest.mark.parametrize("kind", LABELS)
def test_other_labels_are_refused_at_opening(kind: str, arrays: Path) -> None:
    change_array(arrays / "train-labels.npy", LABELS[kind])
    with pytest.raises(ValueError, match=r"^[^\n]*/train-labels\.npy: [^\n]*run prepare again$"):
        open_split(arrays, "train")


@pytest.mark.parametrize(
    "change", [lambda t: t + "one\n", lambda t: t[::-1], lambda t: t.replace("0", "1"), lambda t: ""]
)
def test_other_names_are_refused_at_opening(arrays: Path, change: Callable[[str], str]) -> None:
    names = arrays / "test-names.txt"
    names.write_text(change(names.read_text()))
    with pytest.raises(ValueError, match=r"^[^\n]*/test-names\.txt: its (count|names_sha256) is [^\n]*prepare again$"):
        open_split(arrays, "test")


@pytest.mark.parametrize(
    "change",
    [lambda a: a[:, :7], lambda a: a[..., :1], lambda a: a.astype(np.uint16), lambda a: a[1:], lambda a: a[..., 0]],
)
def test_images_of_another_size_or_type_are_refused_at_opening(
    arrays: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    change_array(arrays / "train-images.npy", change)
    with pytest.raises(ValueError, match=r"train-images\.npy: |images must be uint8|do not belong together"):
        open_split(arrays, "train")


def test_an_image_that_was_overwritten_is_found_by_verification(arrays: Path, shards: Path) -> None:
    flip(arrays / "train-images.npy", 10_000)
    with pytest.raises(ValueError, match=r"train-images\.npy: its images_sha256 is \w+, the manifest says \w+"):
        verify_data(arrays)
    shard = shards / "test-shard-00000.bin"
    flip(shard, shard.stat().st_size - 5)
    with pytest.raises(ValueError, match=r"test-shard-\*\.bin: its images_sha256 is"):
        verify_data(shards)


POSITIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "out of range": lambda a: np.append(a[:-1], 10**6),
    "negative": lambda a: np.insert(a[1:], 0, -1),
    "twice": lambda a: np.insert(a[1:], 0, a[1]),
    "too few": lambda a: a[:-1],
    "another type": lambda a: a.astype(float),
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_validation_positions_that_are_none_are_refused_at_opening(kind: str, arrays: Path) -> None:
    change_array(arrays / "train-validation.npy", POSITIONS[kind])
    with pytest.raises(ValueError, match=r"train-validation\.npy: .*run prepare again"):
        validation_indices(arrays)


def test_other_validation_positions_are_found_by_verification(arrays: Path) -> None:
    chosen = np.load(arrays / "train-validation.npy")
    others = np.setdiff1d(np.arange(chosen[-1]), chosen)[: len(chosen)]
    np.save(arrays / "train-validation.npy", others)
    with pytest.raises(ValueError, match=r"train-validation\.npy: its positions are not those of validation\.fraction"):
        verify_data(arrays)


@pytest.mark.parametrize(
    ("field", "value"), [("offset", 7), ("length", 9), ("length", -1), ("shard", 3), ("height", 0), ("width", -4)]
)
def test_an_index_that_was_changed_is_refused_at_opening(shards: Path, field: str, value: int) -> None:
    def change(index: np.ndarray) -> None:
        index[field][2] = value

    change_array(shards / "train-index.npy", change)
    with pytest.raises(ValueError, match=r"train-(index\.npy|shard-\d+\.bin)(:| has) .*run prepare again"):
        open_split(shards, "train")


def test_sides_of_another_picture_are_found_by_verification(shards: Path) -> None:
    def change(index: np.ndarray) -> None:
        index["height"][2] += 1

    change_array(shards / "train-index.npy", change)
    with pytest.raises(
        ValueError, match=r"train-shard-00000\.bin: image ant/ant_2\.JPEG: 26 x 29 pixels, the index says 27 x"
    ):
        verify_data(shards)


def test_a_picture_that_was_overwritten_is_refused_where_it_is_read(shards: Path) -> None:
    images = open_split(shards, "train")
    other, everything = BytesIO(), np.arange(1)
    Image.new("L", (3, 3)).save(other, "PNG")
    for data, message in (
        (b"x" * 300, "cannot identify image"),
        (other.getvalue(), "3 x 3 pixels, the index says 20 x 31"),
    ):
        with (shards / "train-shard-00000.bin").open("r+b") as file:
            file.write(data)
        with pytest.raises(ValueError, match=rf"train-shard-00000\.bin: image ant/ant_0\.JPEG: {message}"):
            images.crops(everything, evaluation_boxes(*images.sizes(everything), 1.0), 8)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no digest": (lambda m: m.pop("digest"), "digest: Field required"),
    "null": (lambda m: m.update(class_names=None), "class_names: Input should be a valid"),
    "a text for a number": (lambda m: m["splits"]["train"].update(count="12"), "splits.train.count: Input should be"),
    "a fraction": (lambda m: m["splits"]["train"].update(count=12.5), "splits.train.count: "),
    "NaN": (lambda m: m["validation"].update(fraction=float("nan")), "validation.fraction: Input should be"),
    "infinity": (lambda m: m["validation"].update(seed=float("inf")), "validation.seed: "),
    "an unknown key": (lambda m: m.update(colour="red"), "colour: Extra inputs are not permitted"),
    "a list": (lambda m: m.update(splits=[]), "splits: Input should be"),
    "no train": (lambda m: m["splits"].pop("train"), "splits has no 'train'"),
    "other class names": (lambda m: m["class_names"].reverse(), "class_list_sha256 is not of class_names"),
    "another digest": (lambda m: m.update(digest="0" * 64), "digest is not of class_names and splits"),
    "another count": (lambda m: m["splits"]["train"].update(count=3), "splits.train.count is not the sum of per_class"),
    "a skipped image": (lambda m: m["bad_images"].update(count=3), "bad_images.count is not the number"),
    "another container": (lambda m: m.update(container="arrays"), "splits.test has"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_with_a_wrong_field_is_refused_by_its_name(kind: str, shards: Path) -> None:
    change, message = MANIFESTS[kind]
    path = shards / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"^[^\n]*/manifest\.json: {message}[^\n]*$"):
        read_manifest(shards)


def test_a_manifest_says_the_same_when_read_and_written_again(shards: Path) -> None:
    before = (shards / "manifest.json").read_bytes()
    Manifest.read(shards).write(shards)
    assert (shards / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("shape", [(10**12,), (2**62,), (2**40, 2**40), (-1,)])
def test_an_array_that_claims_more_than_its_file_holds_takes_no_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    header = str({"descr": "<i8", "fortran_order": False, "shape": shape})
    (tmp_path / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"12345678"
    )
    with pytest.raises(ValueError, match=r"a\.npy cannot be read .*run prepare again"):
        read_array(tmp_path / "a.npy")


def test_an_array_with_more_behind_it_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"a\.npy cannot be read \(4 bytes follow its array\)"):
        read_array(tmp_path / "a.npy")


def test_a_picture_in_place_of_an_array_is_refused(shards: Path) -> None:
    Image.new("L", (4, 4)).save(shards / "train-index.npy", "PNG")
    with pytest.raises(ValueError, match=r"train-index\.npy cannot be read"):
        open_split(shards, "train")

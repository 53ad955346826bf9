"""The folder-per-class export: names from data sets never leave their folder nor overwrite each other."""

import numpy as np
import pytest
from PIL import Image

from attndistill.figures.export import export_by_class, safe_names


def panel(index: int) -> np.ndarray:
    return np.full((2, 3, 3), index, np.uint8)


def test_each_image_lands_in_the_folder_of_its_class(tmp_path):
    files = export_by_class(tmp_path / "by_class", ["dog", "cat", "dog"], ["a", "a", "b"], panel)
    wanted = ["dog/a.png", "cat/a.png", "dog/b.png"]
    assert [str(file.relative_to(tmp_path / "by_class")) for file in files] == wanted
    assert [int(np.asarray(Image.open(file))[0, 0, 0]) for file in files] == [0, 1, 2]


def test_an_export_replaces_the_earlier_one(tmp_path):
    export_by_class(tmp_path / "by_class", ["old"], ["a"], panel)
    export_by_class(tmp_path / "by_class", ["new"], ["a"], panel)
    assert [path.name for path in (tmp_path / "by_class").iterdir()] == ["new"]


def test_a_panel_that_fails_leaves_the_earlier_export(tmp_path):
    def failing(index):
        raise RuntimeError("drawing failed")

    export_by_class(tmp_path / "by_class", ["old"], ["a"], panel)
    with pytest.raises(RuntimeError):
        export_by_class(tmp_path / "by_class", ["new"], ["a"], failing)
    assert [path.name for path in tmp_path.iterdir()] == ["by_class"]
    assert (tmp_path / "by_class" / "old" / "a.png").exists()


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "..", ".hidden", "a\0b", "line\nbreak", ""])
def test_hostile_names_stay_in_their_folder(tmp_path, name):
    (file,) = export_by_class(tmp_path / "by_class", [name], [name], panel)
    assert file.resolve().parent.parent == (tmp_path / "by_class").resolve()
    assert file.exists()
    assert not file.name.startswith(".")


def test_plain_names_are_kept():
    assert safe_names(["n02088238_194.jpg", "test-00001"]) == ["n02088238_194.jpg", "test-00001"]


def test_names_that_would_share_a_file_are_told_apart_in_any_order():
    names = ["a/b", "a b", "A_B", "other"]
    safe = dict(zip(names, safe_names(names), strict=True))
    assert len({name.casefold() for name in safe.values()}) == 4
    assert safe["other"] == "other"
    assert dict(zip(names[::-1], safe_names(names[::-1]), strict=True)) == safe


def test_letters_of_every_script_are_kept_and_composed():
    names = ["猫", "cafe\u0301", "क्षि", "Größe 1", "柴犬\u3000黒", "$x$", "a\x1b[31m\u202eb"]
    assert safe_names(names) == ["猫", "caf\u00e9", "क्षि", "Größe_1", "柴犬_黒", "_x_", "a_31m_b"]


def test_names_are_bounded_in_bytes_and_stay_distinct():
    names = ["猫" * 300 + end for end in "ab"] + ["caf\u00e9", "cafe\u0301", "caf\udce9", "x" * 5_000_000]
    safe = safe_names(names)
    assert len({name.casefold() for name in safe}) == len(names)
    assert max(len(f"{name}.png".encode()) for name in safe) <= 200


def test_a_name_that_looks_like_anothers_hash_is_told_apart():
    first = safe_names(["A", "a"])
    names = ["A", "a", first[0]]
    assert len({name.casefold() for name in safe_names(names)}) == 3


def test_a_name_given_twice_is_refused():
    with pytest.raises(ValueError, match="'a' given more than once"):
        safe_names(["a", "a"])


def test_a_missing_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1 classes and 2 names given"):
        export_by_class(tmp_path / "by_class", ["dog"], ["a", "b"], panel)

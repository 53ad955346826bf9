"""Which images keep their label: published lists, and seeded stratified shares."""

from pathlib import Path

import numpy as np
import pytest

from attndistill.data.label_subsets import LabelSubset, LeftOut, label_subset
from attndistill.data.splits import balanced_subset, first_of_classes, stratified_subset, train_test_split

NAMES = ["n01/n01_5.JPEG", "n01/n01_7.JPEG", "n02/n02_5.JPEG", "n02/deep/n02_9.png"]
LABELS = np.array([0, 0, 1, 1])
MANY = np.repeat(np.arange(4), [100, 37, 4, 1])


def listed(tmp_path: Path, text: str) -> list[int]:
    (tmp_path / "list.txt").write_text(text)
    return label_subset(NAMES, LABELS, list_file=tmp_path / "list.txt", fraction=None, seed=0).positions.tolist()


@pytest.mark.parametrize("text", ["n02_9.JPEG\nn01_7.JPEG\n", "n01_7\r\n\nn02_9", "n02/deep/n02_9.png\nn01_7.JPEG\n"])
def test_a_list_of_base_names_finds_its_images_whatever_folder_and_extension(tmp_path: Path, text: str) -> None:
    assert listed(tmp_path, text) == [1, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "n01_5.JPEG\nn03_1.JPEG\nn02_5.JPEG\nn03_2.JPEG\n",
            "2 of 4 names are not in the data set, such as n03_1.JPEG",
        ),
        ("n01_5.JPEG\nn01/n01_5.JPEG\nn02_5\n", "names 1 images more than once"),
        ("n01_5.JPEG\n", "leaves 1 of 2 classes without an image"),
        ("\n", "is empty"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listed(tmp_path, text)


def test_names_that_were_left_out_of_the_data_are_passed_over_and_counted(tmp_path: Path) -> None:
    lines = ["n01_5.JPEG", "n02_5.JPEG", "n03_1.JPEG", "n04/deep/8.png", "n02_77.JPEG", "n01/n01_66.JPEG"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    left_out = LeftOut.of(
        {
            "left_out_classes": ["n03", "n04"],
            "bad_images": {
                "skipped": [{"split": "train", "name": "n02/n02_77.JPEG"}, {"split": "test", "name": "n01/n01_66.JPEG"}]
            },
        }
    )

    def kept(left_out: LeftOut) -> LabelSubset:
        return label_subset(NAMES, LABELS, list_file=tmp_path / "list.txt", fraction=None, seed=0, left_out=left_out)

    with pytest.raises(ValueError, match=r"1 of 6 names are not in the data set, such as n01/n01_66\.JPEG"):
        kept(left_out)
    (tmp_path / "list.txt").write_text("\n".join(lines[:-1]))
    subset = kept(left_out)
    assert (subset.positions.tolist(), subset.other_classes, subset.unusable) == ([0, 2], 2, 1)
    with pytest.raises(ValueError, match="3 of 5 names are not in the data set"):
        kept(LeftOut())


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("n01_5.JPEG\nn02_5.JPEG\n", encoding="utf-8-sig")
    subset = label_subset(NAMES, LABELS, list_file=tmp_path / "list.txt", fraction=None, seed=0)
    assert subset.positions.tolist() == [0, 2]


def test_a_base_name_that_two_classes_share_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("1.jpg\nbee/1.jpg\n")
    with pytest.raises(ValueError, match="1 of 2 names fit several images"):
        label_subset(
            ["ant/1.jpg", "bee/1.jpg"], np.array([0, 1]), list_file=tmp_path / "list.txt", fraction=None, seed=0
        )


@pytest.mark.parametrize(("list_file", "fraction"), [(None, None), (Path("list.txt"), 0.1)])
def test_exactly_one_of_list_and_fraction_is_wanted(list_file: Path | None, fraction: float | None) -> None:
    with pytest.raises(ValueError, match="give exactly one of them"):
        label_subset(NAMES, LABELS, list_file=list_file, fraction=fraction, seed=0)


def test_a_drawn_share_has_every_class_in_proportion() -> None:
    chosen = label_subset([""] * 142, MANY, list_file=None, fraction=0.1, seed=0).positions
    assert np.bincount(MANY[chosen]).tolist() == [10, 4, 1, 1]
    assert (np.diff(chosen) > 0).all()


def test_the_seed_decides_and_the_purpose_too() -> None:
    draws = [
        stratified_subset(MANY, 0.3, seed, purpose, leave_one=False)
        for seed, purpose in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    ]
    assert draws[0].tolist() == draws[1].tolist()
    assert draws[0].tolist() != draws[2].tolist()
    assert draws[0].tolist() != draws[3].tolist()


def test_every_image_is_drawn_equally_often() -> None:
    counts = np.zeros(142)
    for seed in range(400):
        counts[stratified_subset(MANY, 0.25, seed, "x", leave_one=False)] += 1
    assert counts[:100].mean() == 100
    assert counts[:100].std() < 14  # binomial: 8.7


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        stratified_subset(MANY, fraction, 0, "x", leave_one=False)


def test_one_image_of_each_class_stays_outside_where_asked() -> None:
    chosen = stratified_subset(MANY, 1.0, 0, "x", leave_one=True)
    assert np.bincount(MANY[chosen], minlength=4).tolist() == [99, 36, 3, 0]


def test_a_balanced_subset_has_as_many_of_each_class_as_there_are() -> None:
    chosen = balanced_subset(MANY, 80, 15, 0, "x")
    assert np.bincount(MANY[chosen]).tolist() == [20, 20, 4, 1]
    assert (np.diff(chosen) > 0).all()
    assert balanced_subset(MANY, 80, 15, 1, "x").tolist() != chosen.tolist()


def test_a_balanced_subset_of_too_many_classes_takes_a_random_part_of_them_whole() -> None:
    labels = np.repeat(np.arange(100), 30)
    counts = [np.bincount(labels[balanced_subset(labels, 300, 15, seed, "x")], minlength=100) for seed in (0, 1)]
    assert [sorted(count)[-20:] for count in counts] == [[15] * 20] * 2
    assert [count.sum() for count in counts] == [300, 300]
    assert (counts[0] != counts[1]).any()


def test_train_and_test_share_nothing_and_miss_nothing() -> None:
    train, test = train_test_split(MANY[:-1], 0.3, 0)
    assert sorted([*train, *test]) == list(range(141))
    assert np.bincount(MANY[test]).tolist() == [30, 11, 1]
    assert 141 in train_test_split(MANY, 0.3, 0)[0]  # the only image of its class


def test_the_first_pictures_of_the_first_classes_stand_for_a_split() -> None:
    assert first_of_classes(np.array([2, 0, 2, 1, 0])) == [1, 3, 0]
    assert first_of_classes(np.repeat(np.arange(100), 3)) == [0, 3, 6, 9, 12, 15]

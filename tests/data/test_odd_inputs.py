"""What people really have: names of every script, litter, pipes; and machines that fail in the middle."""

import errno
import os
import resource
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from attndistill.data import decoding, image_tree
from attndistill.data.idx import read_idx
from attndistill.data.label_subsets import LeftOut, listed_subset
from attndistill.data.preparation import check_judgeable
from attndistill.data.sources import open_source, read_class_list
from attndistill.data.store import open_split

Prepare = Callable[..., dict[str, Any]]
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 8), (200, 10, 10)).save(path, "PNG")
    return path


NAMES = [
    "at 1.01.11\u202fAM",
    "v\u00a013.05",
    "柴犬\u3000黒",
    "👩\u200d🔬",
    NFC,
    NFD,
    "\u202egnp",
    "a\u00adb",
    "'$x$'",
    " x ",
]


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_letter_and_space_may_stand_in_a_name_of_a_file_or_a_class(
        self, tree: Path, prepare_set: Prepare, name: str
    ) -> None:
        for split in ("train", "val"):
            picture(tree / split / name / f"{name}.png")
        manifest = prepare_set("image_folder", {"root": str(tree)})
        assert unicodedata.normalize("NFC", name) in manifest["class_names"]
        assert f"{name}/{name}.png" in open_split(tree.parent / "prepared", "train").names

    @pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\x85b", "a\u2028b", "a\u2029b", os.fsdecode(b"caf\xe9")])
    def test_what_breaks_a_line_is_refused_in_a_file_and_in_a_class(
        self, tree: Path, prepare_set: Prepare, name: str
    ) -> None:
        picture(tree / "train" / "ant" / f"{name}.png")
        with pytest.raises(ValueError, match=r"1 bad images.*\n.*control characters") as caught:
            prepare_set("image_folder", {"root": str(tree)})
        assert str(caught.value).isascii() or "\u2028" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
        for split in ("train", "val"):
            picture(tree / split / name / "1.png")
        with pytest.raises(
            ValueError, match=r"^class name 'a?.*' is blank, or has control characters.* no UTF-8; rename"
        ):
            prepare_set("image_folder", {"root": str(tree)}, on_bad_image="skip")

    def test_two_spellings_of_one_name_are_one_class(self, tree: Path, prepare_set: Prepare) -> None:
        picture(tree / "train" / NFC / "1.png")
        picture(tree / "train" / NFD / "2.png")
        picture(tree / "val" / NFD / "3.png")
        manifest = prepare_set("image_folder", {"root": str(tree)})
        assert manifest["class_names"] == ["ant", "bee", NFC]
        assert manifest["splits"]["train"]["per_class"][NFC] == 2

    def test_a_list_may_spell_a_name_in_the_other_way(self, tree: Path, tmp_path: Path) -> None:
        picture(tree / "train" / NFC / f"{NFC}.png")
        picture(tree / "val" / NFC / "1.png")
        (tmp_path / "list").write_text(f"{NFD}\nant\n")
        source = open_source("image_folder", {"root": str(tree), "class_list": str(tmp_path / "list")})
        assert source.class_names == (NFC, "ant")
        (tmp_path / "list").write_text(f"{NFD}.png\n")
        assert listed_subset([f"{NFC}/{NFC}.png"], tmp_path / "list", LeftOut()).positions.tolist() == [0]
        assert listed_subset([f"{NFD}.png", f"{NFC}.png"], tmp_path / "list", LeftOut()).positions.tolist() == [0]

    def test_a_class_list_may_name_a_class_that_ends_in_a_space(self, tree: Path, tmp_path: Path) -> None:
        for name in ("ant ", "柴\u3000"):
            for split in ("train", "val"):
                picture(tree / split / name / "1.png")
        (tmp_path / "list").write_text("ant \n  bee\n柴\u3000\r\n")
        source = open_source("image_folder", {"root": str(tree), "class_list": str(tmp_path / "list")})
        assert source.class_names == ("ant ", "bee", "柴\u3000")

    def test_names_that_look_the_same_are_told_apart(self, tree: Path, prepare_set: Prepare, tmp_path: Path) -> None:
        picture(tree / "train" / "a\u00a0b" / "1.png")
        picture(tree / "val" / "a b" / "1.png")
        with pytest.raises(ValueError, match=r"class 'a b' has images in test but none in train"):
            prepare_set("image_folder", {"root": str(tree)})
        (tree / "val" / "a b").rename(tree / "val" / "other")
        with pytest.raises(ValueError, match=r"class 'a\\xa0b' has images in train but none in test"):
            prepare_set("image_folder", {"root": str(tree)})


LITTER = [
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Desktop.ini",
    ".DS_Store",
    "._ant_0.JPEG",
    ".hidden.png",
    "Icon\r",
]
LITTER_FOLDERS = ["__MACOSX", "@eaDir", ".@__thumb", ".ipynb_checkpoints", "$RECYCLE.BIN", "System Volume Information"]


def test_litter_of_operating_systems_is_left_aside_and_listed(tree: Path, prepare_set: Prepare) -> None:
    clean = prepare_set("image_folder", {"root": str(tree)})
    for place in (tree / "train", tree / "train" / "ant"):
        for name in LITTER:
            (place / name).write_bytes(b"x")
        for name in LITTER_FOLDERS:
            picture(place / name / "preview.png")
    manifest = prepare_set("image_folder", {"root": str(tree)})
    listed = manifest.pop("left_aside")
    assert manifest == clean
    assert listed["count"] == 2 * (len(LITTER) + len(LITTER_FOLDERS)) == len(listed["names"])
    assert {"train/@eaDir", "train/ant/Thumbs.db", "train/ant/Icon\\r"} <= set(listed["names"])


def test_a_class_folder_too_deep_is_refused_in_a_short_line(tree: Path) -> None:
    os.makedirs(tree / "train" / "ant" / "/".join("d" * 500))  # noqa: PTH103 # in no recursion
    with pytest.raises(ValueError, match="lies 100 folders deep in its class") as caught:
        open_source("image_folder", {"root": str(tree)})
    assert len(str(caught.value)) < 400


def made(path: Path, kind: str) -> Path:
    """A file that never ends, or is none."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_regular_file_is_refused_wherever_a_file_is_read(
    kind: str, tree: Path, prepare_set: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    odd = made(Path("odd.gz"), kind)
    for read in (read_class_list, lambda path: read_idx(path, 3), lambda path: listed_subset(["a"], path, LeftOut())):
        with pytest.raises(ValueError, match=r"odd\.gz is a (pipe|socket|device|folder), not a regular file"):
            read(odd)
    if kind != "folder":
        odd.rename(tree / "train" / "ant" / "odd.png")
        with pytest.raises(ValueError, match=r"1 bad images.*\n.*odd\.png: is a (pipe|socket|device), not a regular"):
            prepare_set("image_folder", {"root": str(tree)})
    prepare_set("image_folder", {"root": str(tree)}, on_bad_image="skip")
    (tmp_path / "prepared" / "train-labels.npy").unlink()
    made(tmp_path / "prepared" / "train-labels.npy", "pipe")
    with pytest.raises(ValueError, match=r"train-labels\.npy .*is a pipe"):
        open_split(tmp_path / "prepared", "train")


class TestTheMachinesFaults:
    """They end the stage under either policy: a good picture is never left out for them."""

    @pytest.mark.parametrize(
        "number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ENOSPC, errno.EDQUOT]
    )
    @pytest.mark.parametrize("where", ["open", "decode", "scandir"])
    @pytest.mark.parametrize("policy", ["skip", "error"])
    def test_a_fault_of_the_machine_ends_the_stage(
        self, number: int, where: str, policy: str, tree: Path, prepare_set: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.open

        def failing(*arguments: Any, **options: Any) -> Any:
            if where != "open" or str(arguments[0]).endswith("bee_1.png"):
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        target = {"open": os, "decode": decoding, "scandir": image_tree.os}[where]
        monkeypatch.setattr(target, where, failing)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            prepare_set("image_folder", {"root": str(tree)}, on_bad_image=policy)
        monkeypatch.undo()
        assert caught.value.errno == number
        assert not (tree.parent / "prepared").exists()

    def test_memory_that_a_decoder_lacks_is_the_machines_fault_and_names_the_file(
        self, tree: Path, prepare_set: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*_: Any, **__: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(decoding, "decode", failing)
        with pytest.raises(OSError, match=r"Cannot allocate memory: '.*ant_0\.JPEG'"):
            prepare_set("image_folder", {"root": str(tree)}, on_bad_image="skip")

    def test_under_a_memory_limit_the_data_are_the_same_or_the_stage_fails(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            for label in "ab":
                for number in range(2):
                    for suffix in ("png", "jpg", "webp", "tif"):
                        path = tmp_path / "t" / split / label / f"{number}.{suffix}"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        options = {"compression": "tiff_deflate"} if suffix == "tif" else {}
                        Image.effect_noise((1500, 1500), 40).convert("RGB").save(path, **options)
        script = (
            "import sys, resource\n"
            "from attndistill.data.preparation import prepare\n"
            "from attndistill.data.sources import open_source\n"
            "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
            "if int(sys.argv[2]): resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)\n"
            "from pathlib import Path\n"
            "made = prepare(open_source('image_folder', {'root': sys.argv[1]}), Path(sys.argv[3]),\n"
            "               validation_fraction=0.5, split_seed=0, on_bad_image='skip', workers=2)\n"
            "print(made['digest'])\n"
        )
        found = set()
        for limit in (0, 12, 16, 20, 24, 28, 32, 40, 60):
            command = [sys.executable, "-c", script, str(tmp_path / "t"), str(limit), str(tmp_path / "out")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found.add(done.stdout)
        assert len(found) == 1

    def test_reading_opens_few_files_at_once(self, tree: Path, prepare_set: Prepare) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 12, hard))
        try:
            assert prepare_set("image_folder", {"root": str(tree)}, workers=2)["bad_images"]["count"] == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestWhatCannotBeJudged:
    """Refused when the data are prepared, in our words; data without labels are asked nothing."""

    def test_one_image_a_class_leaves_none_for_validation(self, tree: Path, prepare_set: Prepare) -> None:
        for name in ("ant", "bee"):
            for path in sorted((tree / "train" / name).iterdir())[1:]:
                path.unlink()
        with pytest.raises(
            ValueError, match=r"^each of the 2 classes has a single image in train: none can be kept for"
        ):
            prepare_set("image_folder", {"root": str(tree)})

    def test_one_class_of_two_images_is_enough(self, tree: Path, prepare_set: Prepare) -> None:
        for path in sorted((tree / "train" / "ant").iterdir())[1:]:
            path.unlink()
        assert prepare_set("image_folder", {"root": str(tree)})["validation"]["count"] == 1

    def test_data_without_labels_are_asked_nothing(self) -> None:
        check_judgeable([], {"train": None, "test": None})

"""Archives unpack below their folder, whole or not at all, and nothing but files and folders."""

import errno
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from attndistill.data.extraction import extract

FILES = {"set/train/a.jpg": b"a" * 5000, "set/b.txt": b""}


def tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zipped(path: Path, members: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0 if name == "good.txt" else mode << 16
            archive.writestr(info, data)
    return path


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_files_and_folders_are_unpacked(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"archive.{kind}"
    if kind == "zip":
        zipped(path, FILES | {"set/empty/": b""})
    else:
        everything = [(member(name), data) for name, data in FILES.items()]
        tar(path, [*everything, (member("set/empty", tarfile.DIRTYPE), b"")], f"w:{kind[4:]}")
    told: list[str] = []
    extract(path, tmp_path / "out", progress=told.append)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == FILES
    assert (tmp_path / "out" / "set" / "empty").is_dir()
    assert sorted(name.rstrip("/") for name in told) == ["set/b.txt", "set/empty", "set/train/a.jpg"]


def test_a_tar_that_ends_in_a_zip_is_still_a_tar(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"inside": b"x"}).read_bytes()
    extract(tar(tmp_path / "a.tar", [(member("inner.zip"), inner)]), tmp_path / "out")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()] == [("inner.zip", inner)]


HOSTILE_TARS = {
    "parent": ([(member("../evil"), b"x")], "'../evil' would leave the folder"),
    "deep parent": ([(member("a/../../evil"), b"x")], "would leave the folder"),
    "absolute": ([(member("/tmp/evil"), b"x")], "would leave the folder"),
    "link out": ([(member("l", tarfile.SYMTYPE, "../.."), b""), (member("l/evil"), b"x")], "'l' is a link or a device"),
    "link in": ([(member("a"), b"x"), (member("l", tarfile.SYMTYPE, "a"), b"")], "'l' is a link or a device"),
    "hard link": ([(member("l", tarfile.LNKTYPE, "/etc/passwd"), b"")], "'l' is a link or a device"),
    "device": ([(member("d", tarfile.CHRTYPE), b"")], "'d' is a link or a device"),
    "pipe": ([(member("p", tarfile.FIFOTYPE), b"")], "'p' is a link or a device"),
    "bomb": ([(member("a"), b"x" * 600), (member("b"), b"x" * 600)], "more than the 1000 bytes allowed"),
    "file as folder": ([(member("a"), b"x"), (member("a/b"), b"x")], "cannot be unpacked"),
}


@pytest.mark.parametrize("kind", HOSTILE_TARS)
def test_a_hostile_tar_is_refused_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    members, message = HOSTILE_TARS[kind]
    (tmp_path / "in").mkdir()
    good = (member("good.txt"), b"good")
    path = tar(tmp_path / "in" / "archive.tar", [good, *members])
    with pytest.raises(ValueError, match=message):
        extract(path, tmp_path / "in" / "out", max_bytes=1000)
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["archive.tar", "in"]


@pytest.mark.parametrize(
    ("members", "mode", "message"),
    [
        ({"../evil": b"x"}, 0, "would leave the folder"),
        ({"/evil": b"x"}, 0, "would leave the folder"),
        ({"..\\evil": b"x"}, 0, "would leave the folder"),
        ({"C:/evil": b"x"}, 0, "would leave the folder"),
        ({"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777, "'link' is a link or a device"),
        ({"bomb": b"\0" * 2000}, 0, "more than the 1000 bytes allowed"),
    ],
)
def test_a_hostile_zip_is_refused_and_leaves_nothing(
    tmp_path: Path, members: dict[str, bytes], mode: int, message: str
) -> None:
    path = zipped(tmp_path / "archive.zip", {"good.txt": b"good"} | members, mode)
    with pytest.raises(ValueError, match=message):
        extract(path, tmp_path / "out", max_bytes=1000)
    assert [found.name for found in tmp_path.iterdir()] == ["archive.zip"]


def raw_tar(path: Path, size: bytes, kind: bytes = b"0", body: bytes = b"") -> Path:
    """A tar of one member whose header says `size`, whatever follows."""
    header = bytearray(tarfile.TarInfo("a").tobuf())
    header[124:136], header[156:157] = size, kind
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(gzip.compress(bytes(header) + body))
    return path


@pytest.mark.parametrize("kind", [b"0", b"x", b"L"])
def test_a_member_of_negative_size_is_refused(tmp_path: Path, kind: bytes) -> None:
    size = b"\xff" + (-512).to_bytes(11, "big", signed=True)
    with pytest.raises(ValueError, match=r"is refused: a header of -512 bytes"):
        extract(raw_tar(tmp_path / "a.tar.gz", size, kind), tmp_path / "out")


@pytest.mark.parametrize("size", ["-512", "-1"])
def test_a_negative_size_in_a_pax_header_is_refused(tmp_path: Path, size: str) -> None:
    info = member("a")
    info.pax_headers = {"size": size}
    with pytest.raises(ValueError, match=r"is refused: a member of -\d+ bytes"):
        extract(tar(tmp_path / "a.tar", [(info, b"x" * 600)]), tmp_path / "out")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_that_would_fill_the_memory_is_refused_unread(tmp_path: Path, kind: bytes) -> None:
    path = raw_tar(tmp_path / "a.tar.gz", b"77777777777\0", kind, bytes(50_000_000))
    with pytest.raises(ValueError, match=r"is refused: a header of 8589934591 bytes"):
        extract(path, tmp_path / "out")


def test_more_than_its_length_can_hold_is_refused_unwritten(tmp_path: Path) -> None:
    path = raw_tar(tmp_path / "a.tar.gz", b"77777777777\0", b"0", bytes(50_000_000))
    with pytest.raises(ValueError, match=r"it holds more than the \d+ bytes allowed"):
        extract(path, tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [(member("a"), b"x"), (member("b"), b"y")])
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be unpacked: a damaged header"):
        extract(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["", "."])
def test_a_member_without_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a member has no name"):
        extract(zipped(tmp_path / "a.zip", {"good.txt": b"good", name: b"x"}), tmp_path / "out")


def test_a_name_of_megabytes_is_refused_in_a_short_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a name of 60000 characters") as caught:
        extract(zipped(tmp_path / "a.zip", {"n" * 60_000: b"x"}), tmp_path / "out")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("data", [gzip.compress(bytes(10**8)), bytes(10240)])
def test_an_archive_of_nothing_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"nothing is in it|neither a tar nor a zip archive"):
        extract(tmp_path / "a.tar.gz", tmp_path / "out")


def test_a_full_disk_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = zipped(tmp_path / "a.zip", {"a": b"x"})
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        extract(path, tmp_path / "out")


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:60] + bytes([data[60] ^ 1]) + data[61:]


@pytest.mark.parametrize("damage", [half, flipped])
@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_damaged_archive_is_refused(tmp_path: Path, kind: str, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"archive.{kind}"
    noise = bytes(range(256)) * 40
    if kind == "zip":
        zipped(path, {"a": noise})
    else:
        tar(path, [(member("a"), noise)], "w:gz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"archive.* (cannot be unpacked|is refused): "):
        extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="neither a tar nor a zip archive"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    with pytest.raises(ValueError, match=r"absent\.tar cannot be unpacked: .*No such file"):
        extract(tmp_path / "absent.tar", tmp_path / "out")

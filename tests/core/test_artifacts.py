"""Files are whole or absent, digests name content, and broken JSON is refused by name."""

import shutil

import pytest

from attndistill.core.artifacts import (
    digest_of,
    file_digest,
    read_json,
    replacing,
    replacing_directory,
    write_json,
    write_text,
)


class CrashError(Exception):
    pass


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(CrashError), replacing(tmp_path / "a.txt") as beside:  # noqa: PT012
        beside.write_text("half of the ne")
        raise CrashError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_disk_that_is_full_is_said_to_be_whatever_the_writer_says(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(OSError, match=r"No space left on device: '.*/weights.pt'"), replacing(tmp_path / "weights.pt"):
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 832 vs 726")


def test_a_crash_while_writing_a_directory_leaves_the_old_one_and_nothing_else(tmp_path):
    with replacing_directory(tmp_path / "d") as beside:
        (beside / "old").touch()
    with pytest.raises(CrashError), replacing_directory(tmp_path / "d") as beside:  # noqa: PT012
        (beside / "new").touch()
        raise CrashError
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["d", "d/old"]


def test_a_directory_is_replaced_whole_and_readable_by_others(tmp_path):
    for name in ("old", "new"):
        with replacing_directory(tmp_path / "d") as beside:
            (beside / name).touch()
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["new"]
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o755


def test_a_file_is_readable_by_others_and_keeps_its_suffix_while_written(tmp_path):
    with replacing(tmp_path / "deep" / "a.npy") as beside:
        assert beside.suffix == ".npy"
        beside.write_bytes(b"x")
    assert (tmp_path / "deep" / "a.npy").stat().st_mode & 0o777 == 0o644


def test_equal_values_are_equal_json_files_and_nan_is_refused(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": [2.5, None]})
    write_json(tmp_path / "b", {"a": [2.5, None], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == {"a": [2.5, None], "b": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"x": float("nan")})
    assert read_json(tmp_path / "a") == {"a": [2.5, None], "b": 1}


def test_missing_and_broken_json_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json does not exist: run the stage that makes it first"):
        read_json(tmp_path / "none.json")
    (tmp_path / "a.json").write_bytes(b'{"a": \xff}')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_digests_depend_on_content_and_not_on_key_order(tmp_path):
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5}) != digest_of({"a": "1"})
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

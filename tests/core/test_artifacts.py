"""Files are whole or absent, digests name content, and broken JSON is refused by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attndistill.core import artifacts
from attndistill.core.artifacts import (
    digest_of,
    file_digest,
    read_json,
    replacing,
    replacing_directory,
    sweep,
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


def content(directory: Path) -> dict[str, str]:
    """Path -> text of every file below, hidden ones too; a folder has none."""
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else "" for path in directory.rglob("*")
    }


def write_folder(path: Path, text: str) -> None:
    with replacing_directory(path) as beside:
        for name in ("a", "b"):
            write_text(beside / name, text)


@pytest.fixture(params=["in a project", "without a project"])
def place(request, tmp_path, monkeypatch) -> Path:
    """A folder for artifacts."""
    for name in ("DVC_ROOT", "ATTNDISTILL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "in a project":
        (tmp_path / "experiments").mkdir()
        (tmp_path / "params.yaml").touch()
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


@pytest.mark.parametrize("write", [write_text, lambda path, text: write_json(path, {"a": text}), write_folder])
@pytest.mark.parametrize("exchanges", [True, False])
def test_a_write_killed_anywhere_leaves_the_old_or_the_new_and_the_next_one_leaves_nothing_else(
    place, write, exchanges, monkeypatch, killed_at
):
    if not exchanges:
        monkeypatch.setattr(artifacts, "_exchanged", lambda one, other: False)
    write(place / "x", "old")
    old = content(place)
    write(place / "x", "new")
    new, event = content(place), 1
    assert old != new
    while True:
        write(place / "x", "old")
        if not killed_at(event, lambda: write(place / "x", "new")):
            break
        sweep(place)
        assert content(place) in (old, new), event
        assert not (place.parent / ".work" / "tmp").exists()
        event += 1
    assert event > 10
    assert content(place) == new


def test_a_killed_write_leaves_nothing_in_its_folder_that_a_reader_of_files_would_find(place, killed_at):
    event = 1
    while killed_at(event, lambda: write_json(place / "found.json", {})):
        assert [path.name for path in place.glob("*.json")] in ([], ["found.json"]), event
        event += 1


def test_in_a_project_a_killed_write_leaves_nothing_beside_the_artifact_at_any_time(tmp_path, monkeypatch, killed_at):
    for name in ("DVC_ROOT", "ATTNDISTILL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "original"))
    (tmp_path / "original").mkdir()
    place, event = tmp_path / "copy" / "outputs", 1
    place.mkdir(parents=True)
    while killed_at(event, lambda: write_folder(place / "x", "new")):
        assert content(place) in ({}, {"x": "", "x/a": "new", "x/b": "new"}), event
        shutil.rmtree(place / "x", ignore_errors=True)
        event += 1
    write_text(place / "y", "")
    assert not (tmp_path / "original" / ".work" / "tmp").exists()


def test_what_a_living_process_writes_is_not_swept(place):
    with replacing(place / "mine") as beside:
        beside.write_text("half of")
        write_text(place / "other", "another one, of the same process")
        child = os.fork()
        if child == 0:
            sweep(place)
            os._exit(0)
        os.waitpid(child, 0)
        assert beside.read_text() == "half of"
    assert content(place) == {"mine": "half of", "other": "another one, of the same process"}


def test_a_file_in_the_place_of_a_folder_is_refused_and_stays(tmp_path):
    write_text(tmp_path / "x", "mine")
    with pytest.raises(NotADirectoryError), replacing_directory(tmp_path / "x"):
        pass
    assert content(tmp_path) == {"x": "mine"}


def test_writers_are_not_hurt_by_others_that_make_and_remove_the_folder_of_temporaries(tmp_path):
    """The seeds of a stage write checkpoints beside one another, and whoever is last removes the empty folder."""
    (tmp_path / "params.yaml").touch()
    (tmp_path / "experiments").mkdir()
    (tmp_path / ".work").mkdir()
    loop = "import os, sys\nwhile True:\n try: os.{}(sys.argv[1])\n except OSError: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", loop.format(name), tmp_path / ".work/tmp"])
        for name in ("mkdir", "rmdir")
    ]
    try:
        for number in range(300):
            write_text(tmp_path / "written.txt", str(number))
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert (tmp_path / "written.txt").read_text() == "299"


def test_temporary_names_lie_on_the_file_system_of_the_artifact(place, monkeypatch):
    monkeypatch.setattr(artifacts, "_mount", lambda directory: (len(directory.parts), ""))  # every folder another one
    with replacing(place / "x") as beside:
        assert beside.parents[1] == place / ".attndistill-tmp"
    assert content(place) == {"x": ""}


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
    with pytest.raises(ValueError, match=r"a\.json is no text in utf-8"):
        read_json(tmp_path / "a.json")


def test_digests_depend_on_content_and_not_on_key_order(tmp_path):
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5}) != digest_of({"a": "1"})
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

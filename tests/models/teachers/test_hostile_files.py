"""Nothing in a checkpoint runs, and no broken file gives anything but a clear refusal."""

import datetime
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import FORMATS, layouts

from attndistill.models.teachers.loading import Wanted, load_teacher


class Hostile:
    """Pickled, it asks the reader to make a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


class Unknown:
    """Of a package that is not torch's."""


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("where", ["as a value beside", "as a tensor's value", "instead of everything"])
def test_code_in_a_checkpoint_never_runs(layout, where, teacher, tmp_path):
    witness, path = tmp_path / "ran", tmp_path / "hostile.pth"
    content = layouts()[layout](teacher.state_dict())
    if where == "instead of everything":
        content = Hostile(witness)
    elif where == "as a value beside":
        content = {**content, "args": Hostile(witness)}
    else:
        inner = next((value for value in content.values() if isinstance(value, dict) and value), content)
        inner["cls_token"] = Hostile(witness)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"asks for \S*mkdir, which is refused") as caught:
        load_teacher(path, Wanted())
    assert "\n" not in str(caught.value)
    assert not witness.exists()


@pytest.mark.parametrize("old", [True, False], ids=["torch's old format", "zip"])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.float64(0.5), r"numpy\S*\.scalar"),
        (datetime.date(2021, 5, 1), r"datetime\.date"),
        (Unknown(), r"\S*\.Unknown"),
        (print, "print"),
    ],
)
def test_what_is_no_tensor_is_refused_by_its_own_name(value, name, old, tmp_path):
    path = tmp_path / "odd.pth"
    torch.save({"model": {}, "best": value}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=rf"odd\.pth asks for {name}, which is refused; load it where you trust it"):
        load_teacher(path, Wanted())


@pytest.mark.parametrize("layout", FORMATS)
def test_a_flipped_byte_is_refused_or_changes_nothing(layout, saved, teacher, tmp_path):
    """torch's own zip files: their checksums are held, so that only bytes nobody reads may change unseen."""
    path = saved(layout)
    whole, digest = path.read_bytes(), load_teacher(path, Wanted()).report.sha256
    structure = [*range(4000), *range(len(whole) - 4000, len(whole))]  # names and offsets; the rest is tensors
    draws = np.random.default_rng(list(FORMATS).index(layout))
    for turn in range(16):
        place = int(draws.choice(structure) if turn % 2 else draws.integers(len(whole)))
        broken = bytearray(whole)
        broken[place] ^= int(draws.integers(1, 256))
        found = tried(tmp_path / "broken.pth", broken, digest)
        assert found is None or same(found, teacher), place


@pytest.mark.parametrize("old", [True, False], ids=["torch's old format", "safetensors"])
def test_a_flipped_byte_in_a_file_without_checksums_gives_a_refusal_or_another_digest(
    old, teacher, timm_file, tmp_path
):
    path = timm_file(teacher)
    if old:
        torch.save(teacher.state_dict(), path := tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole, digest = path.read_bytes(), load_teacher(path, Wanted()).report.sha256
    draws, refused = np.random.default_rng(0), 0
    for _ in range(64):
        broken = bytearray(whole)
        broken[int(draws.integers(4000))] ^= int(draws.integers(1, 256))
        refused += tried(tmp_path / f"broken{path.suffix}", broken, digest) is None
    assert refused > 32


@pytest.mark.parametrize("layout", FORMATS)
def test_a_file_cut_short_is_refused(layout, saved, tmp_path):
    path = saved(layout)
    whole, digest = path.read_bytes(), load_teacher(path, Wanted()).report.sha256
    for place in (0, 1, 8, *np.random.default_rng(0).integers(len(whole), size=8), len(whole) - 1):
        assert tried(tmp_path / "broken.pth", whole[:place], digest) is None


def tried(path: Path, content: bytes, digest: str) -> torch.nn.Module | None:
    """The model, or None where the file was refused in one line; with its digest given it must be."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        load_teacher(path, Wanted(sha256=digest))
    try:
        return load_teacher(path, Wanted()).model
    except ValueError as error:
        return None if "\n" not in str(error) else pytest.fail(f"not one line: {error}")


def same(loaded: torch.nn.Module, wanted: torch.nn.Module) -> bool:
    mine, theirs = loaded.state_dict(), wanted.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_damaged_tables_of_contents_are_refused(saved, teacher, timm_file, tmp_path):
    for path, place in ((saved("dino backbone"), -20), (timm_file(teacher), 9)):
        broken = bytearray(path.read_bytes())
        broken[place : place + 8] = b"\x9d" * 8
        bad = tmp_path / f"bad{path.suffix}"
        bad.write_bytes(bytes(broken))
        with pytest.raises(ValueError, match="is not a whole"):
            load_teacher(bad, Wanted())

"""Nothing in a checkpoint runs, and no broken file gives anything but a clear refusal."""

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
    with pytest.raises(ValueError, match=r"asks to run .*mkdir, which is refused") as caught:
        load_teacher(path, Wanted())
    assert "\n" not in str(caught.value)
    assert not witness.exists()


@pytest.mark.parametrize("layout", ["dino full", "mae", "timm with classifier"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_bytes_give_a_clear_refusal_or_a_model_of_another_digest(layout, damage, saved, tmp_path):
    """A flip inside a tensor's bytes cannot be seen without the published digest; everything else must be refused."""
    whole = saved(layout).read_bytes()
    digest = load_teacher(saved(layout), Wanted()).report.sha256
    draws = np.random.default_rng(0)
    refused = 0
    structure = [*range(4000), *range(len(whole) - 4000, len(whole))]  # names and offsets; the rest is tensors
    for turn in range(24):
        place = int(draws.choice(structure) if turn % 2 else draws.integers(len(whole)))
        flipped = bytes([whole[place] ^ int(draws.integers(1, 256))])
        broken = whole[:place] if damage == "cut" else whole[:place] + flipped + whole[place + 1 :]
        path = tmp_path / "broken.pth"
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="SHA-256"):
            load_teacher(path, Wanted(sha256=digest))
        try:
            load_teacher(path, Wanted())
        except ValueError:
            refused += 1
    assert refused == 24 if damage == "cut" else refused > 0


def test_damaged_tables_of_contents_are_refused(saved, teacher, timm_file, tmp_path):
    for path, place in ((saved("dino backbone"), -20), (timm_file(teacher), 9)):
        broken = bytearray(path.read_bytes())
        broken[place : place + 8] = b"\x9d" * 8
        bad = tmp_path / f"bad{path.suffix}"
        bad.write_bytes(bytes(broken))
        with pytest.raises(ValueError, match="is not a whole"):
            load_teacher(bad, Wanted())

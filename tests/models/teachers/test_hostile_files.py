"""Nothing in a checkpoint runs, and no broken file gives anything but a clear refusal."""

import argparse
import datetime
import json
import os
import pathlib
import resource
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import FORMATS, layouts
from safetensors.torch import save_file

from attndistill.models.teachers.loading import Wanted, load_teacher
from attndistill.models.teachers.reading import read_checkpoint


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
    for turn in range(6):
        place = int(draws.choice(structure) if turn % 2 else draws.integers(len(whole)))
        broken = bytearray(whole)
        broken[place] ^= int(draws.integers(1, 256))
        found = tried(tmp_path / "broken.pth", broken, digest)
        assert found is None or same(found, teacher), place


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


def refused(path: Path, **said: object) -> str:
    """The one line, given within two seconds of work and without a gigabyte."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"\w") as caught:
        load_teacher(path, Wanted(**said))
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    return message


def header(path: Path, entries: dict, data: bytes = b"", length: int | None = None) -> Path:
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_a_small_file_that_claims_a_wide_model_costs_no_memory(teacher, tmp_path):
    state = dict(teacher.state_dict())
    wide = 20480
    state |= {
        "patch_embed.proj.weight": torch.zeros(wide, 1, 1, 1),
        "blocks.0.mlp.fc1.weight": torch.zeros(4 * wide, 1),
        "cls_token": torch.zeros(1, 1, wide),
    }
    torch.save(state, tmp_path / "wide.pth")
    assert "of another shape" in refused(tmp_path / "wide.pth")


def test_many_blocks_of_nothing_cost_no_time(teacher, tmp_path):
    state = dict(teacher.state_dict()) | {f"blocks.{number}.norm1.weight": torch.ones(1) for number in range(2, 3000)}
    torch.save(state, tmp_path / "deep.pth")
    assert "missing" in refused(tmp_path / "deep.pth")


def test_a_deep_and_a_self_referring_pickle_are_refused(teacher, tmp_path):
    path = tmp_path / "odd.pth"
    deep: list = []
    for _ in range(150):
        deep = [deep]
    itself: dict = {"args": deep}
    itself["model"] = itself
    torch.save(itself, path)
    assert "of no known format" in refused(path)


def test_a_pickle_nested_deeper_than_python_goes_is_refused(tmp_path):
    path = tmp_path / "deep.pth"
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("x/data.pkl", nested)
        members.writestr("x/version", "3")
        members.writestr("x/byteorder", "little")
    refused(path)


@pytest.mark.parametrize(
    ("members", "method", "said"),
    [
        ({"": b"x"}, zipfile.ZIP_STORED, "no name"),
        ({"x/data.pkl": bytes(2**24)}, zipfile.ZIP_DEFLATED, "compressed"),
        ({"x/data.pkl": bytes(2**23)}, zipfile.ZIP_STORED, "a pickle of 8,388,608 bytes"),
        ({"x/code/a.py": b"1", "x/constants.pkl": b"1"}, zipfile.ZIP_STORED, "TorchScript"),
    ],
)
def test_zip_files_that_torch_never_writes_are_refused(members, method, said, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.pth", "w", method) as file:
        for name, content in members.items():
            file.writestr(name or zipfile.ZipInfo(name), content, method)
    assert said in refused(tmp_path / "odd.pth")


@pytest.mark.parametrize("kind", [pathlib.PosixPath, pathlib.PurePosixPath, pathlib.PureWindowsPath])
def test_paths_in_the_arguments_are_read_as_text(kind, teacher, tmp_path):
    args = argparse.Namespace(output_dir=kind("/checkpoint/1"), job_dir=kind("/x") / "y", lr=0.1)
    torch.save({"model": teacher.state_dict(), "args": args}, tmp_path / "mae.pth")
    assert load_teacher(tmp_path / "mae.pth", Wanted()).report.format == "mae"
    read = read_checkpoint(tmp_path / "mae.pth").tree["args"].output_dir
    assert not isinstance(read, Path)  # a pure path opens nothing
    assert str(read) == str(kind("/checkpoint/1"))


def test_a_path_made_of_what_is_no_text_is_refused(tmp_path):
    class Odd:
        def __reduce__(self):
            return Path, (Hostile(tmp_path / "ran"),)

    torch.save({"model": {}, "args": Odd()}, tmp_path / "odd.pth")
    assert "mkdir, which is refused" in refused(tmp_path / "odd.pth")
    assert not (tmp_path / "ran").exists()


def test_a_header_of_a_gigabyte_is_refused_unread(tmp_path):
    path = header(tmp_path / "long.safetensors", {}, length=2**30)
    with path.open("r+b") as file:
        file.truncate(2**30 + 64)
    assert "a header of 1,073,741,824 bytes" in refused(path)


@pytest.mark.parametrize(
    "entries",
    [
        {
            "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        },
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 24]}},
        {"a": {"dtype": "F99", "shape": [6], "data_offsets": [0, 24]}},
        {"a": {"dtype": "F32", "shape": [-6], "data_offsets": [0, 24]}},
        {"a": 5},
        {"\x1b[2J" + "n" * 5_000_000: {"dtype": "F99", "shape": [6], "data_offsets": [0, 24]}},
    ],
    ids=["overlapping", "larger than the file", "unknown type", "negative", "no entry", "long name"],
)
def test_safetensors_headers_that_lie_are_refused(entries, tmp_path):
    assert "is not a whole safetensors file" in refused(header(tmp_path / "odd.safetensors", entries, bytes(24)))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (torch.float8_e4m3fn, "holds float8_e4m3fn: quantised weights are not read"),
        (torch.float8_e5m2, "holds float8_e5m2: quantised"),
        (torch.complex64, "holds complex64, not floating-point weights"),
        (torch.int8, "holds int8, not floating-point weights; allowed: float16, bfloat16, float32, float64"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_other_types_are_named(kind, said, suffix, teacher, tmp_path):
    state = dict(teacher.state_dict())
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].to(kind)
    path = tmp_path / f"odd.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    assert said in refused(path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_plain_floating_type_are_read(kind, teacher, tmp_path):
    torch.save({name: tensor.to(kind) for name, tensor in teacher.state_dict().items()}, tmp_path / "some.pth")
    loaded = load_teacher(tmp_path / "some.pth", Wanted()).model
    assert torch.equal(loaded.cls_token, teacher.cls_token.to(kind).float())


@pytest.mark.parametrize(
    "name", ["blocks", "blocks.", "blocks.x.y", "blocks.-1.a", "\x1b[2J\x1b]0;owned\x07", "n" * 2_000_000]
)
@pytest.mark.parametrize("where", ["tensor", "key", "dropped"])
def test_odd_names_neither_break_the_reader_nor_reach_the_terminal(name, where, teacher, tmp_path):
    state, path = dict(teacher.state_dict()), tmp_path / "odd.pth"
    if where == "dropped":
        torch.save({"model": state | {f"decoder_{name}": torch.ones(1)}}, path)
        lines = load_teacher(path, Wanted()).report.lines()
        assert all(line.isprintable() and len(line) < 1000 for line in lines)
        return
    torch.save(state | {name: torch.ones(1)} if where == "tensor" else {name: state}, path)
    refused(path)


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "image size 0 px"), (-8, "image size -8 px"), (10**9, "image size 1000000000"), (12, "do not fill 12 px")],
)
def test_an_image_size_that_is_none_is_refused(size, said, saved):
    for resize in (False, True):
        assert said in refused(saved("mae"), image_size=size, resize_positions=resize)

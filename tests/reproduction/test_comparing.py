"""What is the same, and by how much it differs; what is in a cache; which versions are others."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from attndistill.reproduction.cache import Cache, caches_of
from attndistill.reproduction.comparison import compared, reasons
from attndistill.reproduction.locks import read_lock
from attndistill.reproduction.workplace import differing_versions

LOCK = """
stages:
  prepare:
    cmd: python -m attndistill prepare
    outs:
    - {path: outputs/data, md5: aa.dir}
  probe@x:
    cmd: python -m attndistill probe --model x
    deps:
    - {path: attndistill/core/words.py, md5: cc}
    - {path: outputs/data, md5: aa.dir}
    outs:
    - {path: results/probes/x.json, md5: bb}
"""


def written(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) if path.suffix == ".json" else str(value))
    return path


def kept(folder: Path, data: bytes, suffix: str = "") -> str:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest() + suffix
    place = folder / "files" / "md5" / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return md5


def test_other_words_beside_the_same_numbers_are_the_same_figure(tmp_path):
    old, new = (written(tmp_path / f"{name}.json", {"title": name, "top1": [90.5]}) for name in ("then", "now"))
    assert compared("r.json", "a", "b", old, new).verdict == "same figure"


def test_the_largest_difference_of_a_figure_is_named(tmp_path):
    old = written(tmp_path / "then.json", {"top1": [90.5, 80.0], "n": 2})
    new = written(tmp_path / "now.json", {"top1": [90.0, 80.1], "n": 2})
    row = compared("r.json", "a", "b", old, new)
    assert (row.verdict, row.detail) == ("differs", "by 0.5 at most: top1[0] 90.5 -> 90; 2 of 3 numbers")


def test_a_figure_that_is_gone_is_no_same_figure(tmp_path):
    old, new = (
        written(tmp_path / "then.json", {"top1": 1.0, "top5": 2.0}),
        written(tmp_path / "now.json", {"top1": 1.0}),
    )
    assert compared("r.json", "a", "b", old, new).detail == "figures that one of them lacks: top5"


def test_curves_differ_by_their_largest_step(tmp_path):
    old, new = (
        written(tmp_path / "then.csv", "epoch,loss\n1,2.0\n"),
        written(tmp_path / "now.csv", "epoch,loss\n1,2.25\n"),
    )
    assert "by 0.25 at most: line 1, column 1 2 -> 2.25" in compared("r.csv", "a", "b", old, new).detail


def test_models_differ_by_their_largest_weight(tmp_path):
    for name, value in (("then", 1.0), ("now", 1.5)):
        (tmp_path / name).mkdir()
        save_file({"weight": np.full(3, value, np.float32)}, tmp_path / name / "model.safetensors")
    row = compared("model", "a.dir", "b.dir", tmp_path / "then", tmp_path / "now")
    assert row.detail == "1 of 1 files: model.safetensors; largest difference of a weight 0.5"


def test_bytes_that_nobody_has_any_more_are_said_to_be_nowhere(tmp_path):
    row = compared("r.json", "a", "b", None, tmp_path)
    assert (row.verdict, row.detail) == ("differs", "md5 a -> b; the bytes of then are nowhere")


def test_another_processor_and_another_torch_are_reasons_and_another_pytest_is_none():
    found = reasons({"processor": "A"}, {"processor": "B"}, ["pytest 1 -> 2", "torch 2.15.0 -> 2.16.0"])
    assert found == ["processor A -> B", "torch 2.15.0 -> 2.16.0"]


def test_a_newer_version_is_reported_by_name():
    today = importlib.metadata.version("numpy")
    assert differing_versions(["numpy==1.0", "attndistill==0.0.0", "gone==3"]) == [
        "gone 3 -> absent",
        f"numpy 1.0 -> {today}",
    ]


def test_an_input_is_told_from_code_by_the_stage_that_makes_it():
    lock = read_lock(LOCK, "dvc.lock")
    probe = lock.stages["probe@x"]
    assert lock.code(probe) == {"attndistill/core/words.py": "cc"}
    assert lock.inputs(probe) == {"outputs/data": "aa.dir"}
    assert lock.maker("outputs/data/train-images.npy") is lock.stages["prepare"]
    assert lock.maker("elsewhere") is None


@pytest.mark.parametrize("text", ["stages: 3", "stages: {a: {}}", "a: [", "- x"])
def test_a_text_that_is_no_lock_is_refused_by_its_name(text):
    with pytest.raises(ValueError, match=r"^dvc\.lock is (no lock of DVC|not valid YAML): "):
        read_lock(text, "dvc.lock")


def test_a_folder_is_taken_out_of_the_cache_by_its_listing(tmp_path):
    inner = kept(tmp_path / "cache", b"pixels")
    md5 = kept(tmp_path / "cache", json.dumps([{"md5": inner, "relpath": "a/b.npy"}]).encode(), ".dir")
    cache = Cache([tmp_path / "cache"])
    cache.take(md5, tmp_path / "out")
    assert cache.has(md5)
    assert (tmp_path / "out/a/b.npy").read_bytes() == b"pixels"


def test_changed_bytes_are_found_in_the_cache_and_nothing_is_taken(tmp_path):
    inner = kept(tmp_path / "cache", b"pixels")
    md5 = kept(tmp_path / "cache", json.dumps([{"md5": inner, "relpath": "b.npy"}]).encode(), ".dir")
    (tmp_path / "cache/files/md5" / inner[:2] / inner[2:]).write_bytes(b"others")
    cache = Cache([tmp_path / "cache"])
    assert not cache.has(md5)
    assert "was changed: its md5 is " in str(cache.fault(md5))
    with pytest.raises(ValueError, match="was changed: its md5 is "):
        cache.take(md5, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["../outside", "/etc/outside"])
def test_a_listing_that_leads_out_of_its_folder_is_refused(tmp_path, path):
    md5 = kept(
        tmp_path / "cache", json.dumps([{"md5": kept(tmp_path / "cache", b"x"), "relpath": path}]).encode(), ".dir"
    )
    with pytest.raises(ValueError, match="names a file outside of its folder"):
        Cache([tmp_path / "cache"]).take(md5, tmp_path / "out")


def test_the_caches_of_an_experiment_are_its_own_and_the_repositorys(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".dvc").mkdir()
    folder = tmp_path / "experiments" / "mine"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[cache]\n    dir = ../../../shared\n")
    places = caches_of(folder).folders
    assert places[:2] == (tmp_path / "shared", folder / ".dvc" / "cache")
    assert tmp_path / ".dvc" / "cache" in places

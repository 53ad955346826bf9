import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from attndistill.tracking.inputs import directory_md5, listed_outs, made_outputs, md5_of, own_lock, verified_inputs
from attndistill.tracking.lineage import processor, stated_digests

LOCK = """schema: '2.0'
stages:
  prepare:
    cmd: x
    deps:
    - {path: code.py, hash: md5, md5: 00000000000000000000000000000000}
    outs:
    - {path: one.txt, hash: md5, md5: 5bbf5a52328e7439ae6e719dfe712200}
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    (tmp_path / "one.txt").write_text("one\n")
    (tmp_path / "code.py").write_text("code\n")
    return tmp_path


def test_an_input_that_agrees_with_the_lock_is_verified(root):
    assert verified_inputs(root, "digits", ["one.txt"])["inputs_verified"] == "yes"
    assert verified_inputs(root, "digits", [str(root / "one.txt")])["inputs_verified"] == "yes"


def test_an_input_changed_behind_dvc_is_named_with_both_digests(root):
    (root / "one.txt").write_text("two\n")
    said = verified_inputs(root, "digits", ["one.txt"])["inputs_verified"]
    assert said == (
        "no: one.txt (dvc.lock 5bbf5a52328e7439ae6e719dfe712200, workspace c193497a1a06b2c72230e6146ff47080)"
    )


def test_an_absent_input_is_not_verified(root):
    (root / "one.txt").unlink()
    assert "workspace absent" in verified_inputs(root, "digits", ["one.txt"])["inputs_verified"]


def test_what_a_stage_read_last_time_is_no_promise(root):
    assert (
        verified_inputs(root, "digits", ["one.txt", "code.py"])["inputs_verified"] == "partly: not in dvc.lock: code.py"
    )


def test_without_inputs_nothing_is_claimed(root):
    assert verified_inputs(root, "digits", []) == {"inputs": {}, "inputs_verified": "none"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "stages: [",
        "just text",
        "stages:\n",
        "stages: [1]",
        "stages: {a: 1, b: {outs: 3}, c: {outs: [1, {md5: a}]}}",
        "\x00",
    ],
)
def test_a_broken_lock_lists_nothing(tmp_path, content):
    (tmp_path / "dvc.lock").write_text(content)
    assert listed_outs(tmp_path, "digits") == {}


@pytest.mark.drivers
def test_md5s_agree_with_a_real_dvc(tmp_path):
    data = tmp_path / "data"
    (data / "b" / "ü").mkdir(parents=True)
    (data / "B.txt").write_text("upper\n")
    (data / "a.txt").write_bytes(b"a\r\n")
    (data / "b" / "x.bin").write_bytes(bytes(range(256)))
    (data / "b" / "ü" / "empty").touch()
    (data / "b.txt").write_text("between\n")
    (tmp_path / "single.txt").write_text("single\n")
    (data / "b" / "scratch.tmp").write_text("not data\n")
    (tmp_path / ".dvcignore").write_text("*.tmp\n")
    for words in (["init", "--no-scm", "-q"], ["add", "-q", "data", "single.txt"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True, capture_output=True)
    (told,) = YAML(typ="safe", pure=True).load(tmp_path / "data.dvc")["outs"]
    assert directory_md5(data, tmp_path) == told["md5"]
    assert md5_of(tmp_path / "single.txt", tmp_path) == listed_outs(tmp_path, "digits")["single.txt"]
    inside = verified_inputs(tmp_path, "digits", ["data/b/x.bin"])
    assert inside["inputs"] == {"data": {"listed": told["md5"], "workspace": told["md5"]}}
    assert inside["inputs_verified"] == "yes"


OWN = "stages: {one@a: {outs: [{path: mine/one.txt, md5: 5bbf5a52328e7439ae6e719dfe712200}]}}"


@pytest.mark.parametrize(("wdir", "place"), [("../..", "mine"), (".", "experiments/mine/mine")])
@pytest.mark.parametrize("form", ["one: {{wdir: {}}}", "one: {{foreach: [a], do: {{wdir: {}}}}}"])
def test_an_experiments_own_lock_is_read_with_its_paths_resolved(root, wdir, place, form):
    folder = root / "experiments" / "mine"
    (root / place).mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dvc.yaml").write_text(f"stages: {{{form.format(wdir)}}}")
    (folder / "dvc.lock").write_text(OWN)
    (root / place / "one.txt").write_text("one\n")
    assert verified_inputs(root, "mine", [f"{place}/one.txt", "one.txt"])["inputs_verified"] == "yes"
    assert own_lock(root, "mine", [f"{place}/one.txt"]) == folder / "dvc.lock"
    assert own_lock(root, "mine", ["one.txt"]) == root / "dvc.lock"


def test_a_lock_that_lists_nothing_of_a_run_is_not_its_own(root):
    assert own_lock(root, "other", ["outputs/other/data"]) is None


def test_outputs_that_are_not_there_have_no_md5(root):
    assert made_outputs(root, ["one.txt", "none"]) == {"one.txt": "5bbf5a52328e7439ae6e719dfe712200"}


def test_accounts_state_the_digests_of_what_came_from_elsewhere(tmp_path):
    (tmp_path / "data").mkdir()
    manifest = '{"digest": "a", "class_list_sha256": "b", "splits": {"train": {"count": 3, "digest": "c"}}}'
    (tmp_path / "data" / "manifest.json").write_text(manifest)
    (tmp_path / "teacher.json").write_text('{"load": {"file": "f", "sha256": "d"}}')
    (tmp_path / "broken.json").write_text("{")
    assert stated_digests(tmp_path, ["data"], ["teacher.json", "broken.json", "absent.json"]) == {
        "data/manifest.json:digest": "a",
        "data/manifest.json:class_list_sha256": "b",
        "data/manifest.json:splits.train.digest": "c",
        "teacher.json:load.sha256": "d",
    }


def test_the_processor_has_a_name():
    assert len(processor()) > 3

"""`verify`: source files and settings against a lock."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from attndistill.reproduction.verification import faults_of_code, setting_faults

LOCK = """\
schema: '2.0'
stages:
  prepare:
    cmd: python -m attndistill prepare
    deps:
    - path: code.py
      hash: md5
      md5: {md5}
      size: {size}
"""
CODE = '"""Adds."""\n\n\ndef add(a, b):\n    return a + b\n'


def digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment in a git repository whose lock names the committed code."""
    (tmp_path / "rows.yaml").write_text("rows:\n  x:\n    label: X\n    set: {}\n")
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "dvc.lock").write_text(LOCK.format(md5=digest(CODE), size=len(CODE)))
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "code"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def faults(folder: Path, text: str | None) -> list[str]:
    (folder / "code.py").unlink()
    if text is not None:
        (folder / "code.py").write_text(text)
    return list(faults_of_code(folder, "code.py", digest(CODE)))


def test_the_code_that_the_lock_names_is_no_fault(folder):
    assert faults(folder, CODE) == []


def test_reworded_code_is_no_fault(folder):
    assert faults(folder, CODE.replace("Adds.", "The sum.")) == []


def test_other_code_is_a_fault_that_names_the_file(folder):
    (line,) = faults(folder, CODE.replace("a + b", "a - b"))
    assert line == f"code.py is not what dvc.lock names ({digest(CODE)}): run `dvc repro`"


def test_code_that_was_never_committed_is_said_to_be(folder):
    (line,) = faults_of_code(folder, "code.py", "0" * 32)
    assert "which is in no commit" in line


def test_code_that_is_gone_is_a_fault(folder):
    assert faults(folder, None) == ["code.py is gone, and dvc.lock names it"]


def settings(then: dict, now: dict) -> list[str]:
    return list(setting_faults("probe", "params.yaml", then, now))


def test_settings_as_the_lock_has_them_are_no_fault():
    assert settings({"probe.knn": {"neighbours": [1]}}, {"probe": {"knn": {"neighbours": [1]}, "other": 2}}) == []


def test_another_setting_is_named_by_itself_and_not_by_its_section():
    then = {"pretrain": {"mask_ratio": 0.75, "decoder": {"depth": 1, "embed_dim": 32}}}
    now = {"pretrain": {"mask_ratio": 0.75, "decoder": {"depth": 2, "embed_dim": 32}}}
    assert settings(then, now) == [
        "probe: params.yaml: pretrain.decoder.depth is 2, dvc.lock has 1: run `dvc repro probe`"
    ]


def test_of_several_settings_the_first_is_named_and_the_others_are_counted():
    (line,) = settings({"views": {"seed": 0, "flip": 0.5, "old": 1}}, {"views": {"seed": 1, "flip": 0.0}})
    assert line == "probe: params.yaml: views.seed is 1, dvc.lock has 0 (and 2 more): run `dvc repro probe`"


def test_a_setting_that_one_side_lacks_is_said_to_be_none():
    assert "views.flip is none, dvc.lock has 0.5" in settings({"views": {"flip": 0.5}}, {"views": {}})[0]
    assert "views.new is 3, dvc.lock has none" in settings({"views": {"seed": 0}}, {"views": {"seed": 0, "new": 3}})[0]
    assert "views is none" not in settings({"views": {"flip": 0.5}}, {})[0]


def test_an_empty_section_that_is_gone_is_a_fault():
    (line,) = settings({"exports": {}}, {})
    assert line == "probe: params.yaml: exports is none, dvc.lock has {}: run `dvc repro probe`"
    assert "probe is {}, dvc.lock has {'linear': {}}" in settings({"probe": {"linear": {}}}, {"probe": {}})[0]

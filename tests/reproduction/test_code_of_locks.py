"""`verify`: source files against the digests in a lock."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from attndistill.reproduction.verification import faults_of_code

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

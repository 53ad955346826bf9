import hashlib
import os
from pathlib import Path

import pytest

from attndistill.tracking import git as tracked_git
from attndistill.tracking.git import code_state


def test_a_clean_tree_is_clean_at_its_commit(project, git):
    state, patch = code_state(project.root)
    assert state == {"commit": git("rev-parse", "HEAD").strip(), "dirty": "no", "patch": "none", "left_out": []}
    assert patch == b""


def test_the_patch_holds_untracked_code_and_rebuilds_the_tree(project, git, tmp_path):
    (project.root / "params.yaml").write_text("a: 2\n")
    (project.root / "new file.py").write_text("print('new')\n")
    (project.root / "binary.bin").write_bytes(bytes(range(256)))
    (project.root / "ignored.txt").write_text("ignored\n")
    state, patch = code_state(project.root)
    assert (state["dirty"], state["patch"]) == ("yes", "whole")
    git("worktree", "add", "-q", str(tmp_path / "again"), "HEAD")
    (tmp_path / "the.patch").write_bytes(patch)
    git("-C", str(tmp_path / "again"), "apply", str(tmp_path / "the.patch"))
    for name in ("params.yaml", "new file.py", "binary.bin"):
        assert (tmp_path / "again" / name).read_bytes() == (project.root / name).read_bytes()
    assert not (tmp_path / "again" / "ignored.txt").exists()


def test_the_users_index_and_objects_stay_as_they_are(project, git):
    (project.root / "staged.py").write_text("staged\n")
    git("add", "staged.py")
    (project.root / "untracked.py").write_text("untracked\n")

    def fingerprint() -> dict[str, str]:
        files = [path for path in (project.root / ".git").rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = fingerprint()
    _, patch = code_state(project.root)
    assert fingerprint() == before
    assert b"+staged" in patch
    assert b"+untracked" in patch


def test_results_are_not_code(project, git):
    (project.root / "results").mkdir()
    (project.root / "results" / "table.json").write_text("{}\n")
    (project.root / "dvc.lock").write_text("schema: '2.0'\n")
    assert code_state(project.root)[0]["dirty"] == "yes"
    assert code_state(project.root, results=["results", "dvc.lock"])[0]["dirty"] == "no"


def test_a_repository_without_a_commit_is_all_difference(tmp_path):
    import subprocess

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "code.py").write_text("one\n")
    state, patch = code_state(tmp_path)
    assert state["commit"] == "none: no commit yet"
    assert b"+one" in patch


def test_no_repository_is_said_and_fails_nothing(tmp_path):
    state, patch = code_state(tmp_path)
    assert str(state["commit"]).startswith("unknown: fatal: not a git repository")
    assert patch == b""


def test_no_git_is_said_and_fails_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_state(tmp_path)[0]["commit"] == "unknown: git is not installed"


def test_a_long_patch_is_cut_and_says_so(project, git, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracked_git, "PATCH_AT_MOST", 100)
    (project.root / "code.py").write_text("x\n" * 1000)
    state, patch = code_state(project.root)
    assert len(patch) == 100
    assert str(state["patch"]).startswith("truncated: the first 100 of ")


def test_a_big_untracked_file_is_data_and_is_named(project, git, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracked_git, "UNTRACKED_AT_MOST", 10)
    Path(project.root / "big.npy").write_text("x" * 11)
    state, _ = code_state(project.root)
    assert state["left_out"] == ["big.npy"]
    assert "1 untracked files above 10 bytes left out" in str(state["patch"])


def test_files_whose_names_say_secret_are_named_and_left_out(project, git):
    (project.root / "tracked.pem").write_text("old\n")
    git("add", "-f", "tracked.pem")
    git("commit", "-qm", "a key")
    for name in (".env", "id_rsa", "tracked.pem", "keys/deploy.key"):
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).write_text("s3cret\n")
    (project.root / "code.py").write_text("url = 'https://me:s3cret@h/f?token=s3cret'\nf(token=cls_token)\n")
    state, patch = code_state(project.root)
    assert state["left_out"] == [".env", "id_rsa", "keys/deploy.key", "tracked.pem"]
    assert "left out since their names say secret: .env, id_rsa, keys/deploy.key, tracked.pem" in state["patch"]
    assert b"s3cret" not in patch
    assert b"+url = 'https://me:***@h/f?token=***'\n+f(token=cls_token)" in patch
    assert "passwords or tokens in it are hidden" in state["patch"]


@pytest.mark.parametrize("name", ["a:b", 'a"b', "a\\b", "a%20b?c#d", "a b\tc", "ü"])
def test_the_commit_is_known_whatever_the_folder_is_called(tmp_path, name):
    import subprocess

    root = tmp_path / name
    root.mkdir()
    (root / "code.py").write_text("one\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    (root / "code.py").write_text("two\n")
    state, patch = code_state(root)
    assert len(state["commit"]) == 40
    assert b"+two" in patch


def test_a_change_in_the_very_moment_of_the_commit_is_seen(project, git):
    git("config", "core.trustctime", "false")
    git("config", "core.checkStat", "minimal")
    code, moment = project.root / "code.py", 1_700_000_000
    code.write_text("one\n")
    os.utime(code, (moment, moment))
    git("add", "code.py")
    git("commit", "-qm", "c")
    os.utime(project.root / ".git" / "index", (moment, moment))
    code.write_text("two\n")
    os.utime(code, (moment, moment))
    assert b"+two" in code_state(project.root)[1]

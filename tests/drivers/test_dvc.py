"""Real `dvc repro` on the real dvc.yaml, at toy size."""

import re
from pathlib import Path

import pytest
from real_project import TINY, clone, run
from real_project import reproduced as reproduced_in
from ruamel.yaml import YAML

pytestmark = pytest.mark.drivers


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reproduced_in(tmp_path_factory.mktemp("first"))


def stages_run(directory: Path, *arguments: str) -> list[str]:
    done = run(directory, "dvc", "repro", *arguments)
    lines = done.stdout.splitlines()
    return [line.split("'")[1] for line in lines if line.startswith("Running stage")]


def edit(path: Path, *keys: str, value: object) -> None:
    yaml = YAML()
    tree = yaml.load(path.read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    yaml.dump(tree, path)


def test_a_second_repro_runs_nothing(reproduced):
    assert stages_run(reproduced) == []


@pytest.mark.parametrize("asked", ["probe@attndistill", pytest.param("", marks=pytest.mark.slow)])
def test_another_clean_clone_ends_with_the_same_lock_and_the_same_results(reproduced, tmp_path, asked):
    other = clone(tmp_path / "second", TINY)
    run(other, "dvc", "repro", "-q", *asked.split(), PYTHONHASHSEED="7")  # by which DVC picks the order
    ours, theirs = (locked(folder) for folder in (reproduced, other))
    assert list(theirs) == [name for name in ours if name in theirs]
    assert theirs == {name: ours[name] for name in theirs}
    assert asked in theirs or (other / "dvc.lock").read_bytes() == (reproduced / "dvc.lock").read_bytes()
    assert not (other / "outputs/speed.js").exists()
    for path in sorted((other / "results").rglob("*.*")):
        assert (reproduced / path.relative_to(other)).read_bytes() == path.read_bytes(), path


def locked(folder: Path) -> dict:
    """The stages of a lock, in its order."""
    return YAML(typ="safe").load((folder / "dvc.lock").read_bytes())["stages"]


def test_speeds_beside_the_page_are_known_to_neither_git_dvc_verify_nor_rebuild(reproduced):
    assert "times as fast" in (reproduced / "outputs/speed.js").read_text()
    assert "speed.js" not in run(reproduced, "git", "status", "--porcelain", "-uall").stdout
    assert "speed.js" not in run(reproduced, "dvc", "data", "status", "--granular").stdout
    run(reproduced, "python", "-m", "attndistill", "verify", "--experiment", ".")
    run(reproduced, "git", "add", "-A")
    run(reproduced, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "results")
    said = run(reproduced, "python", "-m", "attndistill", "rebuild", "results/report/table.json").stdout
    assert re.search(r"^outputs/report +same bytes", said, re.MULTILINE)  # no student and no speed is laid out there


@pytest.mark.parametrize("asked", ["targets", pytest.param("", marks=pytest.mark.slow)])
def test_a_lock_made_anew_from_dvcs_cache_of_runs_has_the_same_entries(reproduced, asked):
    lock = reproduced / "dvc.lock"
    before = lock.read_bytes()
    lock.unlink()
    done = run(reproduced, "dvc", "repro", *asked.split(), PYTHONHASHSEED="5")
    assert "Stage 'targets' is cached - skipping run" in done.stdout
    assert asked or lock.read_bytes() == before
    anew = locked(reproduced)
    lock.write_bytes(before)
    whole = locked(reproduced)
    assert list(anew) == [name for name in whole if name in anew]
    assert {"prepare", "pretrain_teacher", "targets"} <= set(anew)
    assert anew == {name: whole[name] for name in anew}


def test_a_changed_label_makes_the_report_and_trains_nothing(reproduced):
    rows = reproduced / "rows.yaml"
    edit(rows, "rows", "attndistill", "label", value="AttnDistill, renamed")
    assert stages_run(reproduced) == ["report"]
    assert "AttnDistill, renamed" in (reproduced / "outputs/report/index.html").read_text()


def test_an_added_row_runs_alone_and_an_edited_one_too(reproduced):
    rows = reproduced / "rows.yaml"
    edit(rows, "rows", "mse", value={"label": "MSE", "set": {"distill.attention_loss.name": "mse"}})
    first, *between, last = stages_run(reproduced)
    assert (first, set(between), last) == ("distill@mse", {"probe@mse", "attention@mse"}, "report")
    edit(rows, "rows", "mse", "set", value={"distill.attention_loss.name": "mse", "distill.lambda": 1.0})
    changed = stale(reproduced)
    assert "distill@mse" in changed
    assert all(name == "report" or name.endswith("@mse") for name in changed)
    edit(rows, "rows", "mse", "set", value={"distill.attention_loss.name": "mse"})
    assert stale(reproduced) == set()


def test_changed_runtime_settings_run_nothing(reproduced):
    edit(reproduced / "params.yaml", "runtime", "workers", value=1)
    assert stages_run(reproduced) == []


def stale(directory: Path) -> set[str]:
    status = run(directory, "dvc", "status").stdout
    return {line.rstrip(":") for line in status.splitlines() if line and not line.startswith(("\t", " ", "Data"))}


@pytest.mark.parametrize(
    ("file", "old", "new", "students", "teacher"),
    [
        ("training/recipe.py", "self.batch_size / 256", "self.batch_size / 512", True, True),
        ("models/sizes.py", '"vit_tiny": {"embed_dim": 192', '"vit_tiny": {"embed_dim": 96', True, True),
        ("losses/guidance.py", "", "\nEDITED = 1\n", True, False),
        ("core/progress.py", "", "\nEDITED = 1\n", False, False),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".py") else "",
)
def test_a_changed_formula_makes_exactly_the_stages_stale_that_compute_with_it(
    committed, file, old, new, students, teacher
):
    source = committed / "attndistill" / file
    before = source.read_text()
    assert old in before
    source.write_text(before.replace(old, new) if old else before + new)
    assert stale(committed) == ({"code"} if students else set())
    stages_run(committed, "code")
    changed = stale(committed)
    source.write_text(before)
    stages_run(committed, "code")
    assert ("distill@attndistill" in changed, "pretrain_teacher" in changed) == (students, teacher)
    assert stale(committed) == set()


@pytest.fixture
def committed(reproduced) -> Path:
    """The clone with its lock committed."""
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    run(reproduced, "git", "add", "-A")
    run(reproduced, *git, "commit", "-q", "--allow-empty", "-m", "the lock")
    return reproduced


def test_reworded_code_is_the_same_code(committed):
    source = committed / "attndistill/losses/guidance.py"
    before = source.read_text()
    source.write_text(before.replace('"""', '"""In other words: ', 1) + "# a remark\n")
    assert stages_run(committed) == ["code"]
    assert stages_run(committed) == []
    assert run(committed, "git", "diff", "--name-only", "--", "attndistill.lock", "results").stdout == ""

"""Real rebuilds: real git, DVC and MLflow in a toy clone, whose user's tree, index and branches stay as they are."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from real_project import attndistill, clone, run

from attndistill.tracking.address import sqlite_uri

pytestmark = pytest.mark.drivers

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
FIGURE = "results/probes/attndistill.json"
ROWS = "name: mine\nrows:\n  attndistill:\n    label: AttnDistill\n    set: {}\n"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with one measured row, recorded, committed and pushed to a remote."""
    base = tmp_path_factory.mktemp("toy")
    directory = clone(base / "toy", {"seeds": [0], "runtime": {"threads": 1}})
    attndistill(directory, "drivers")
    run(directory, "dvc", "remote", "add", "-q", "-d", "store", str(base / "remote"))
    run(directory, *GIT, "commit", "-qam", "drivers")
    run(directory, "dvc", "repro", "-q", "probe@attndistill", ATTNDISTILL_TRACKING_WAIT="90")
    run(directory, "dvc", "push", "-q")
    run(directory, "git", "add", "-A")
    run(directory, *GIT, "commit", "-qm", "figures")
    return directory


def client(toy: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=sqlite_uri(toy / "mlflow.db"))


def runs(toy: Path, **tags: str) -> list:
    store = client(toy)
    asked = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return store.search_runs([one.experiment_id for one in store.search_experiments()], asked)


def state(directory: Path) -> tuple:
    """All that a user would call theirs in a repository: files, index, branches, worktrees."""
    words = (
        ("status", "--porcelain"),
        ("branch", "-av"),
        ("rev-parse", "HEAD"),
        ("worktree", "list"),
        ("stash", "list"),
    )
    said = tuple(run(directory, "git", "--no-optional-locks", *asked).stdout for asked in words)
    files = {
        path.relative_to(directory).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file() and not {".git", ".work", ".dvc", "mlartifacts", "__pycache__"} & set(path.parts)
        if not path.name.startswith("mlflow.db")
    }
    return said, files, (directory / ".git" / "index").read_bytes()


@pytest.fixture
def untouched(toy):
    """Whatever the test does, the clone's tree, index and branches are those of before; nothing is left in /tmp."""
    before = state(toy)
    yield
    assert state(toy) == before
    assert not list((toy / ".git").glob("worktrees/*"))


def faults(directory: Path) -> set[str]:
    """What verify finds, without the stages that this clone never ran."""
    done = attndistill(directory, "verify", "--experiment", ".", code=1)
    assert "Traceback" not in done.stderr
    return {line for line in done.stdout.splitlines() if "dvc.lock lacks stage" not in line and line[:7] == "digits:"}


def rebuilt(directory: Path, *words: str, **more: object) -> str:
    """What a rebuilding prints; it does not wait until its own record is in MLflow."""
    return attndistill(directory, "rebuild", *words, ATTNDISTILL_TRACKING_WAIT="0", **more).stdout


def refused(directory: Path, *words: str, **more: str) -> str:
    done = attndistill(directory, *words, code=2, **more)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("attndistill: ")]
    assert "Traceback" not in done.stderr
    return line


def test_a_clean_run_is_the_same_bytes_again_and_the_rebuilding_is_recorded(toy, untouched):
    (probe,) = runs(toy, stage="probe")
    done = attndistill(toy, "rebuild", probe.info.run_id[:8], ATTNDISTILL_TRACKING_WAIT="90")
    table = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "same bytes" in table[FIGURE]
    assert "same bytes" in table["outputs/distilled/attndistill"]
    assert "same values" in table["configuration"]
    assert "same versions" in table["environment"]
    (again,) = runs(toy, rebuilds=probe.info.run_id)
    assert again.data.tags["rebuilt"] == "same"
    assert again.data.tags["rebuilt.code"].startswith(f"commit {probe.data.tags['lineage.commit'][:12]}")
    kept = client(toy).download_artifacts(again.info.run_id, "rebuild/comparison.json")
    assert json.loads(Path(kept).read_text())["verdict"] == "same"


def test_a_result_file_is_rebuilt_in_another_clone_from_a_remote_in_another_locale_and_zone(toy, tmp_path):
    run(tmp_path, "git", "clone", "-q", str(toy), "a second clone")
    second = tmp_path / "a second clone"
    before = state(second)
    other = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    command = (
        f"umask 077; python -m attndistill rebuild HEAD:{FIGURE} --dry-run && python -m attndistill rebuild {FIGURE}"
    )
    done = run(second, "sh", "-c", command, **other)
    assert "outputs/data (remote)" in done.stdout
    assert f"{FIGURE} " in done.stdout
    assert done.stdout.count("same bytes") >= 3  # both inputs, and each file that the stage makes
    assert " differs " not in done.stdout
    assert "no run of these bytes is recorded here" in done.stdout
    assert state(second) == before


def test_an_untracked_experiment_with_uncommitted_code_is_rebuilt_when_both_are_gone(toy):
    folder, code = toy / "experiments" / "mine", toy / "attndistill" / "data" / "splits.py"
    folder.mkdir()
    (folder / "rows.yaml").write_text(ROWS)
    (folder / "params.yaml").write_text("data:\n  validation_fraction: 0.3\n")
    clean = code.read_text()
    code.write_text(clean + "\nMARK = 'uncommitted'\n")
    attndistill(toy, "prepare", "--experiment", "experiments/mine", ATTNDISTILL_TRACKING_WAIT="90")
    shutil.rmtree(folder)
    code.write_text(clean)
    before = state(toy)
    (prepare,) = [one for one in runs(toy, stage="prepare") if one.data.tags["lineage.dirty"] == "yes"]
    said = rebuilt(toy, prepare.info.run_id)
    assert " + patch " in said
    (line,) = [line for line in said.splitlines() if line.startswith("experiments/mine/outputs/data ")]
    assert "same bytes" in line
    assert state(toy) == before

    client(toy).set_tag(prepare.info.run_id, "output.experiments/mine/outputs/data", "0" * 32 + ".dir")
    assert "the bytes of then are nowhere" in rebuilt(toy, prepare.info.run_id, code=1)
    assert state(toy) == before


def test_a_trial_of_a_study_gets_its_figures_again_from_its_study_file_alone(toy, untouched):
    study = "search/toy.yaml"
    text = (toy / "experiments/smoke/search/smoke.yaml").read_text()
    (toy / study).write_text(text.replace("trials: 4", "trials: 1"))
    attndistill(toy, "study", study, ATTNDISTILL_TRACKING_WAIT="90")
    (toy / study).unlink()
    (toy / "search/found/toy.json").unlink()
    shutil.rmtree(toy / "outputs/study")
    (trial,) = runs(toy, **{"study.trial": "0"})
    said = rebuilt(toy, trial.info.run_id)
    figure = trial.data.metrics["knn_top1"]
    (line,) = [line for line in said.splitlines() if line.startswith("knn_top1 ")]
    assert "same figure" in line
    assert line.endswith(f"{figure} -> {figure}")
    assert "distill.lambda=0.1, " in said


def test_a_changed_cached_input_is_reported_never_used_and_made_again(toy, untouched):
    (probe,) = runs(toy, stage="probe")
    md5 = probe.data.tags["lineage.input.outputs/distilled/attndistill"]
    listing = toy / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    inner = next(one["md5"] for one in json.loads(listing.read_text()) if one["relpath"].endswith("model.json"))
    cached, outputs = toy / ".dvc/cache/files/md5" / inner[:2] / inner[2:], toy / "outputs/distilled"
    good = cached.read_bytes()
    cached.chmod(0o644)
    cached.write_bytes(good + b" ")
    outputs.rename(toy / ".work/away")
    try:
        said = rebuilt(toy, "--dry-run", probe.info.run_id)
        assert f"{cached} was changed" in said
        line = next(line for line in said.splitlines() if line.startswith("input outputs/distilled/attndistill"))
        assert line.endswith("made again by `attndistill distill --row attndistill`")
        assert any(f"{cached} was changed" in fault for fault in faults(toy))
    finally:
        cached.write_bytes(good)
        (toy / ".work/away").rename(outputs)


def test_verify_finds_no_fault_in_what_was_just_made(toy, untouched):
    assert faults(toy) == set()


def test_verify_names_each_thing_that_was_changed_and_passes_over_words(toy):
    changes = {
        FIGURE: ('"feature"', '"feature" '),
        "params.yaml": ("probe_every: 1", "probe_every: 2"),
        "attndistill/losses/alignment.py": ("def ", "MORE = 1\n\n\ndef "),
        "attndistill/losses/guidance.py": ('"""', '"""Reworded. '),
        "outputs/data/train-names.txt": ("digit-", "digit_"),
    }
    good = {path: (toy / path).read_text() for path in changes}
    for path, change in changes.items():
        (toy / path).chmod(0o644)
        (toy / path).write_text(good[path].replace(*change, 1))
        assert good[path] != (toy / path).read_text()
    extra = toy / "results/probes/invented.json"
    extra.write_text("{}")
    run(toy, "git", "add", "--intent-to-add", str(extra))
    try:
        found = faults(toy)
    finally:
        for path, text in good.items():
            (toy / path).write_text(text)
        run(toy, "git", "rm", "-qf", "--cached", str(extra))
        extra.unlink()
    wanted = {
        f"{FIGURE} is ",
        "pretrain_teacher: params.yaml: pretrain.probe_every is 2, dvc.lock has 1: ",
        "attndistill/losses/alignment.py is not what dvc.lock names",
        "outputs/data is ",
        "results/probes/invented.json is kept by git, but no stage of dvc.lock made it",
    }
    assert all(any(line.startswith(f"digits: {start}") for line in found) for start in wanted), found
    assert not any("guidance.py" in line for line in found)


def test_a_cell_of_the_report_leads_to_runs_commits_data_and_teacher(toy, untouched):
    said = attndistill(toy, "trace", "attndistill", "knn_top1").stdout
    assert said.startswith("attndistill, knn_top1: ")
    for stage in ("probe", "distill", "targets", "prepare"):
        (one,) = [found for found in runs(toy, stage=stage) if found.data.tags["lineage.dirty"] == "no"]
        assert f"run {one.info.run_id} of commit {one.data.tags['lineage.commit'][:12]}" in said
        assert f"attndistill rebuild {one.info.run_id[:8]}" in said
    assert "from outputs/pretrained/teacher (" in said
    assert "dataset digits" in said
    assert "made by `attndistill pretrain --model teacher`" in said


def test_every_result_file_is_listed_with_its_commit_its_run_and_what_to_type(toy, untouched):
    head, *lines = attndistill(toy, "trace").stdout.splitlines()
    assert head.split() == ["result", "file", "commit", "run", "again"]
    listed = {line.split()[0]: line.split(maxsplit=3)[1:] for line in lines}
    assert listed.keys() == {path for path in git_files(toy) if path.endswith(".json") and path.count("/") == 2}
    (probe,) = runs(toy, stage="probe")
    again = f"attndistill rebuild {FIGURE}"
    assert listed[FIGURE] == [probe.data.tags["lineage.commit"][:12], probe.info.run_id, again]


def git_files(directory: Path) -> list[str]:
    return run(directory, "git", "ls-files", "results").stdout.split()


def forged(toy: Path, folder: Path, **changed: object) -> str:
    """A run like the recorded one of the probe whose lineage is changed; gives its id."""
    (probe,) = runs(toy, stage="probe")
    store = client(toy)
    lineage = Path(store.download_artifacts(probe.info.run_id, "lineage", str(folder)))
    code = json.loads((lineage / "code.json").read_text())
    (lineage / "patch.diff").write_text(str(changed.pop("diff", "")))
    (lineage / "code.json").write_text(json.dumps({**code, **changed}))
    tags = {key: value for key, value in probe.data.tags.items() if not key.startswith(("attndistill.rec", "stage"))}
    made = store.create_run(probe.info.experiment_id, tags=tags, run_name=probe.info.run_name).info.run_id
    store.log_artifacts(made, str(lineage), "lineage")
    store.set_terminated(made)
    return made


def test_a_commit_that_is_gone_is_named(toy, tmp_path, untouched):
    line = refused(toy, "rebuild", forged(toy, tmp_path, commit="ab" * 20))
    assert "commit abababababab of run " in line
    assert "is gone from" in line


def test_a_patch_that_does_not_apply_is_named(toy, tmp_path, untouched):
    diff = "--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-never there\n+new\n"
    line = refused(toy, "rebuild", forged(toy, tmp_path, patch="whole", diff=diff))
    assert "does not apply to commit" in line
    assert "README.md" in line


def test_a_patch_that_was_cut_is_not_applied(toy, tmp_path, untouched):
    assert "is not whole (truncated: " in refused(
        toy, "rebuild", forged(toy, tmp_path, patch="truncated: the first 5 of 9 bytes")
    )


def test_a_run_without_lineage_cannot_be_made_again(toy, untouched):
    made = client(toy).create_run("0", run_name="by hand").info.run_id
    client(toy).set_terminated(made)
    assert "was recorded without lineage (no code.json)" in refused(toy, "rebuild", made)


def test_an_input_whose_bytes_are_nowhere_is_named(toy, tmp_path, untouched):
    made = forged(toy, tmp_path)
    client(toy).set_tag(made, "lineage.input.outputs/elsewhere", "ef" * 16)
    line = refused(toy, "rebuild", made)
    assert f"input outputs/elsewhere ({'ef' * 16}) is whole in no cache" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ffffffff"], "no run of sqlite:"),
        (["no run"], "'no run' is no run id"),
        (["results/probes/none.json"], "results/probes/none.json does not exist"),
        (["nowhere:results/probes/none.json"], "no commit 'nowhere' in "),
        (["HEAD:results/probes/none.json"], "has no results/probes/none.json"),
        (["pyproject.toml"], "no recorded run made them: it cannot be made again"),
        (["--environment", "same", f"HEAD~1:{FIGURE}"], f"has no {FIGURE}"),
    ],
)
def test_what_nothing_is_known_of_is_refused_in_one_line(toy, untouched, words, said):
    assert said in refused(toy, "rebuild", *words)


def test_the_run_of_a_whole_call_names_its_stages(toy, untouched):
    (call,) = runs(toy, stage="dvc")
    assert "name one of them: " in refused(toy, "rebuild", call.info.run_id)


def test_a_project_without_a_tracking_store_makes_none(tmp_path):
    directory = clone(tmp_path / "bare")
    (directory / "mlflow.db").unlink()
    assert "no run is recorded here: " in refused(directory, "rebuild", "abcdef")
    assert not (directory / "mlflow.db").exists()

"""Real `dvc repro` on the real dvc.yaml, at toy size."""

from pathlib import Path

import pytest
from conftest import clone, run
from ruamel.yaml import YAML

pytestmark = pytest.mark.drivers

TINY = {"seeds": [0], "runtime": {"tracking": False, "threads": 1}}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = clone(tmp_path_factory.mktemp("first"), TINY)
    run(directory, "dvc", "repro", "-q", PYTHONHASHSEED="0")
    return directory


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


def test_another_clean_clone_ends_with_the_same_lock_and_the_same_results(reproduced, tmp_path):
    other = clone(tmp_path / "second", TINY)
    run(other, "dvc", "repro", "-q", PYTHONHASHSEED="0")  # as the Makefile has it: the lock's order
    assert (other / "dvc.lock").read_bytes() == (reproduced / "dvc.lock").read_bytes()
    for path in sorted((reproduced / "results").rglob("*.*")):
        assert (other / path.relative_to(reproduced)).read_bytes() == path.read_bytes(), path


def test_the_results_are_metrics_and_the_plots_are_pictures(reproduced):
    shown = run(reproduced, "dvc", "metrics", "show", "--md").stdout
    assert "probes.knn.top1.mean" in shown
    assert "results/probes/attndistill.json" in shown
    page = run(reproduced, "dvc", "plots", "show", "-q", "-o", "plots").stdout
    html = (reproduced / "plots" / "index.html").read_text()
    assert "accuracy.png" in html, page
    assert "https://" not in html


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
    ran = stages_run(reproduced)
    assert ran[0] == "distill@mse"
    assert all(name == "report" or name.endswith("@mse") for name in ran)


def test_changed_runtime_settings_run_nothing(reproduced):
    edit(reproduced / "params.yaml", "runtime", "workers", value=1)
    assert stages_run(reproduced) == []


def test_a_changed_loss_reruns_the_students_and_leaves_teacher_and_targets(reproduced):
    loss = reproduced / "attndistill/losses/guidance.py"
    loss.write_text(loss.read_text() + "# changed\n")
    status = run(reproduced, "dvc", "status").stdout
    changed = {line.rstrip(":") for line in status.splitlines() if line and not line.startswith(("\t", " "))}
    assert {"distill@attndistill", "distill@projector_alignment"} <= changed
    assert not {name for name in changed if name.startswith(("prepare", "pretrain", "targets"))}

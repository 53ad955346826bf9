"""What DVC's own tables and experiments say, in a clean clone with a remote: of one experiment alone."""

import json
from pathlib import Path

import pytest
from real_project import reproduced, run

pytestmark = pytest.mark.drivers

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group member who has run the default, committed its lock and pushed what DVC keeps to a remote."""
    directory = reproduced(tmp_path_factory.mktemp("author"))
    run(directory, "dvc", "remote", "add", "-q", "-d", "group", str(tmp_path_factory.mktemp("remote")))
    run(directory, "git", "add", "-A")
    run(directory, *GIT, "commit", "-qm", "results")
    run(directory, "dvc", "push", "-q")
    return directory


@pytest.fixture(scope="module")
def colleague(author: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("colleague") / "clone"
    run(author, "git", "clone", "-q", str(author), str(directory))
    run(directory, "git", "config", "user.name", "test")
    run(directory, "git", "config", "user.email", "test@localhost")
    return directory


def test_a_colleagues_pull_brings_the_default_and_asks_for_nothing_else(colleague):
    done = run(colleague, "dvc", "pull")
    assert "missing" not in done.stdout + done.stderr
    assert (colleague / "outputs/report/index.html").exists()
    assert run(colleague, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert "Everything is up to date" in run(colleague, "dvc", "push").stdout


def test_metrics_are_few_flat_and_of_this_experiment_alone(colleague):
    found = json.loads(run(colleague, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert list(found) == ["results/metrics.json"]
    figures = found["results/metrics.json"]["data"]
    assert set(figures) == {"teacher", "scratch", "projector_alignment", "attndistill"}
    assert set(figures["attndistill"]) == {
        f"{name}{part}" for name in ("knn_top1", "logistic_top1", "kl_to_teacher") for part in ("", "_n")
    }
    for words in (["metrics", "show"], ["metrics", "diff"], ["plots", "diff", "-q"], ["exp", "show", "--no-pager"]):
        done = run(colleague, "dvc", *words)
        assert "failed to load" not in (done.stdout + done.stderr).lower(), words
        assert "table10" not in done.stdout, words
        assert len(done.stdout.splitlines()) <= 40, words


def test_plots_are_native_curves_that_work_offline(colleague):
    run(colleague, "dvc", "plots", "show", "-q", "-o", "plots")
    html = (colleague / "plots" / "index.html").read_text()
    assert "attndistill" in html
    assert "https://" not in html.replace("https://vega.github.io/schema", "")


def test_an_experiment_of_one_stage_is_run_listed_applied_and_branched(colleague):
    done = run(colleague, "dvc", "exp", "run", "-n", "third", "-s", "prepare", "-S", "data.validation_fraction=0.3")
    assert "failed" not in (done.stdout + done.stderr).lower()
    assert run(colleague, "dvc", "exp", "list", "--name-only").stdout.split() == ["third"]
    run(colleague, "git", "checkout", "-q", ".")
    run(colleague, "dvc", "exp", "apply", "third")
    assert "validation_fraction: 0.3" in (colleague / "params.yaml").read_text()
    run(colleague, "dvc", "exp", "branch", "third", "a-branch")
    assert "a-branch" in run(colleague, "git", "branch").stdout
    run(colleague, "git", "checkout", "-q", ".")


def test_experiments_in_temporary_copies_and_from_a_queue_are_kept_and_shared(colleague, author, tmp_path):
    run(colleague, "dvc", "exp", "run", "-n", "apart", "--temp", "-s", "prepare", "-S", "data.validation_fraction=0.4")
    run(
        colleague, "dvc", "exp", "run", "-n", "queued", "--queue", "-s", "prepare", "-S", "data.validation_fraction=0.5"
    )
    run(colleague, "dvc", "exp", "run", "--run-all")
    assert {"apart", "queued"} <= set(run(colleague, "dvc", "exp", "list", "--name-only").stdout.split())
    head, line = run(colleague, "python", "-m", "attndistill", "compare", COLUMNS="120").stdout.splitlines()
    found = dict(zip(head.split(), line.split()[1:], strict=True))
    assert line.startswith("data.validation_fraction ")
    assert (found["workspace"], found["apart"], found["queued"]) == ("0.2", "0.4", "0.5")
    shown = run(colleague, "dvc", "exp", "show", "--no-pager", "--only-changed", COLUMNS="160").stdout
    assert "data.validation_fraction" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 160
    assert "validation_fraction: 0.2" in (colleague / "params.yaml").read_text()
    run(colleague, "dvc", "exp", "push", "-q", "origin", "apart")
    run(tmp_path, "git", "clone", "-q", str(author), "third")
    third = tmp_path / "third"
    run(third, "dvc", "pull", "-q")
    run(third, "dvc", "exp", "pull", "-q", "origin", "apart")
    run(third, "dvc", "exp", "apply", "apart")
    assert "validation_fraction: 0.4" in (third / "params.yaml").read_text()


def test_another_experiment_is_a_project_of_its_own(colleague):
    folder = colleague / "experiments/table10"
    shown = run(folder, "dvc", "stage", "list", "--names-only").stdout.split()
    assert {"prepare", "pretrain_teacher", "targets", "report"} <= set(shown)
    assert any(name.startswith("distill@") for name in shown)

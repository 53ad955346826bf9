"""A study file is refused by place, value and what is allowed, before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from toy_project import STUDY

from attndistill.config import overlay, read_yaml
from attndistill.experiments import open_experiment
from attndistill.study.search import read_search

ROOT = Path(__file__).parents[2]
MEDIAN = {"name": "median", "startup_trials": 1, "warmup_epochs": 0}
LAMBDA = STUDY["search"]["distill.lambda"]


def search_of(tmp_path, changes, overrides=None):
    path = tmp_path / "mine.yaml"
    YAML().dump(overlay(STUDY, changes), path)
    return read_search(path, open_experiment(ROOT), overrides or {})


REFUSED = [
    ({"tirals": 3}, "tirals: unknown key (given 3)"),
    ({"trials": 0}, "trials: 0; input should be greater than 0"),
    ({"trials": "3"}, "trials: '3'; input should be a valid integer"),
    ({"row": "mine"}, "row: 'mine'; allowed: projector_alignment, attndistill"),
    ({"objectives": ["test_top1"]}, "objectives.0: 'test_top1'; allowed: knn_top1, knn_top5, logistic_top1,"),
    ({"objectives": ["parameters"]}, "objectives ['parameters']; one of them must be knn_top1 or knn_top5 or logistic"),
    ({"objectives": ["knn_top1", "knn_top1"]}, "objectives ['knn_top1', 'knn_top1']; allowed: two different ones"),
    (
        {"objectives": ["knn_top1", "parameters"], "pruner": MEDIAN},
        "pruner median: a study of two objectives cannot prune; allowed: none",
    ),
    ({"seeds": [1, 1]}, "seeds [1, 1]; allowed: all different"),
    ({"surface": ["distill.lambda", "student.depth"]}, "surface: student.depth is not searched; allowed: distill."),
    ({"search": {"distill.lambda": {"type": "real"}}}, "search.distill.lambda.type: 'real'; allowed: 'float', 'int',"),
    ({"search": {"distill.lambda": {"low": 2.0}}}, "search.distill.lambda: low 2.0 must be below high 1.0"),
    ({"search": {"distill.lambda": {"low": 0.0}}}, "search.distill.lambda: low 0.0 must be above 0 on a log scale"),
    (
        {"search": {"distill.lambda": {"low": -1.0, "scale": "linear"}}},
        "search.distill.lambda: distill.lambda: -1.0; input should be greater than or equal to 0",
    ),
    ({"search": {"distill.lamda": LAMBDA}}, "search.distill.lamda: unknown key; allowed: student.embed_dim,"),
    ({"search": {"teacher.depth": LAMBDA}}, "search.teacher.depth: shared by all trials; allowed: student.embed_dim,"),
    ({"search": {"probe.knn.temperature": LAMBDA}}, "search.probe.knn.temperature: shared by all trials; allowed:"),
    (
        {"search": {"student.depth": {"type": "float", "low": 1.0, "high": 4.0, "scale": "linear"}}},
        "search.student.depth: student.depth: 1.0; input should be a valid integer",
    ),
    ({"enqueue": [{"distill.lambda": 5.0}]}, "enqueue.0.distill.lambda: 5.0; allowed: 0.01 to 1.0"),
    ({"enqueue": [{"distill.projector_depth": 3}]}, "enqueue.0.distill.projector_depth: 3; allowed: 1, 2"),
    ({"enqueue": [{"distill.projector_depth": True}]}, "enqueue.0.distill.projector_depth: True; allowed: 1, 2"),
    ({"enqueue": [{"distill.lambda": [1]}]}, "enqueue.0.distill.lambda: [1]; allowed: a number, a text, true or false"),
    ({"trials": 1, "enqueue": 2 * [{}]}, "trials: 1; enqueue has 2 points, so at least that many"),
    (
        {"search": {"distill.projector_depth": {"choices": [1, [2]]}}},
        "search.distill.projector_depth.choices.1: [2]; allowed: a number, a text, true or false",
    ),
    ({"enqueue": [{"student.depth": 3}]}, "enqueue.0.student.depth: not searched; allowed: distill.lambda,"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_mistake_is_named_with_what_is_allowed_in_one_line(tmp_path, changes, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole beginning is compared
        search_of(tmp_path, changes)
    told = str(refusal.value)
    assert told.startswith(f"{tmp_path / 'mine.yaml'}: {message}")
    assert "\n" not in told
    assert told.count("[2]") < 2


def test_a_key_that_the_command_line_fixes_cannot_be_searched(tmp_path):
    with pytest.raises(ValueError, match=r"search.distill.lambda: set on the command line too"):
        search_of(tmp_path, {}, {"distill.lambda": 0.5})


def test_two_mistakes_are_named_together(tmp_path):
    with pytest.raises(ValueError, match=r"trials: 0; .*; timeout: -1.0; "):
        search_of(tmp_path, {"trials": 0, "timeout": -1.0})


@pytest.mark.parametrize("path", sorted((ROOT / "search").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_file_of_the_search_folder_is_one_for_the_default_experiment(path):
    search = read_search(path, open_experiment(ROOT), {})
    assert search.definition.trials >= 20  # the toy one lies with the toy experiment


def test_the_toy_study_is_allowed_on_the_toy_experiment():
    read_search(ROOT / "experiments/smoke/search/smoke.yaml", open_experiment(ROOT / "experiments/smoke"), {})


@pytest.mark.parametrize("key", ["seeds", "runtime.processes", "attention.images_per_class"])
def test_a_setting_that_every_study_makes_itself_is_refused_on_the_command_line(tmp_path, key):
    with pytest.raises(ValueError, match=rf"mine.yaml: --{key}: a study sets it itself"):
        search_of(tmp_path, {}, {key: 1})


def test_a_folder_is_no_study_file():
    with pytest.raises(ValueError, match=r"search is a folder, not a regular file$"):
        read_search(ROOT / "search", open_experiment(ROOT), {})


def test_the_default_study_begins_with_the_papers_grid():
    points = read_yaml(ROOT / "search/default.yaml")["enqueue"]
    by_key = {key: {point[key] for point in points} for key in points[0]}
    assert by_key == {
        "distill.lambda": {0.005, 0.1, 0.3, 0.5, 5.0},
        "distill.aggregation.temperature": {5.0, 10.0, 20.0},
        "distill.projector_depth": {1, 2, 4, 8},
    }
    best = {"distill.lambda": 0.1, "distill.aggregation.temperature": 10.0, "distill.projector_depth": 4}
    assert points[0] == best
    assert all(sum(point[key] != best[key] for key in best) <= 1 for point in points)


def test_a_wrong_study_file_is_refused_before_torch_or_optuna_are_imported(tmp_path):
    YAML().dump({**STUDY, "trials": 0}, tmp_path / "mine.yaml")
    code = (
        "import sys; from attndistill.cli import main; "
        f"code = main(['study', {str(tmp_path / 'mine.yaml')!r}]); "
        "print(code, sorted({'torch', 'optuna', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    assert done.stderr.startswith(f"attndistill: {tmp_path / 'mine.yaml'}: trials: 0")
    assert len(done.stderr.splitlines()) == 1

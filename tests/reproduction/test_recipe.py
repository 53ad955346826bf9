"""What is run again, from what was recorded or locked."""

import dataclasses

import pytest

from attndistill.reproduction.locks import Lock, LockedStage
from attndistill.reproduction.recipe import Recipe, words_of, words_of_lock
from attndistill.reproduction.trials import narrowed
from attndistill.tracking.recorded import RecordedRun


def recorded(name: str, *argv: str) -> RecordedRun:
    given = {field.name: {} for field in dataclasses.fields(RecordedRun)}
    return RecordedRun(**{**given, "id": "ab" * 16, "name": name, "argv": ("/there/__main__.py", *argv)})


@pytest.mark.parametrize(
    ("name", "argv", "words"),
    [
        ("distill@x", ["distill", "--row", "x", "--distill.lambda", "2"], "distill --row x --distill.lambda 2"),
        ("prepare", ["prepare", "--experiment", "experiments/mine"], "prepare"),
        ("prepare", ["prepare", "--experiment=experiments/mine", "--data.set.size=32"], "prepare --data.set.size=32"),
        ("probe@x", ["pipeline", "--seeds", "[1]"], "probe --model x --seeds [1]"),
        ("probe@x@cifar", ["pipeline"], "probe --model x --data cifar"),
        ("prepare", ["pipeline", "--experiment", "experiments/mine"], "prepare"),
        ("trial 3", ["study", "search/a.yaml", "-j", "2"], "study search/a.yaml -j 2"),
    ],
)
def test_a_run_is_its_own_stage_again_in_its_own_folder_with_its_settings(name, argv, words):
    assert " ".join(words_of(recorded(name, *argv))) == words


def test_of_a_folder_in_which_several_stages_put_theirs_each_part_is_an_input_but_gits_own():
    made = {"outputs/attention/a": "1", "outputs/attention-other": "2", "results/attention/a.json": "3"}
    maker = LockedStage("attention@a", "python -m attndistill attention --model a", {}, {}, made)
    read = {"outputs/attention": "4.dir", "results/attention": "5.dir", "attndistill/code.py": "6"}
    asker = LockedStage("report", "python -m attndistill report", read, {}, {})
    assert Lock({"attention@a": maker, "report": asker}).inputs(asker) == {"outputs/attention/a": "1"}


def test_a_locks_command_is_read_and_not_given_to_a_shell():
    assert words_of_lock("PYTHONPATH=../.. python -m attndistill probe --model x") == ["probe", "--model", "x"]
    with pytest.raises(ValueError, match="allowed: python -m attndistill"):
        words_of_lock("rm -rf outputs; python x.py")


@pytest.mark.parametrize("path", ["../elsewhere", "/etc/hosts", "outputs/../../elsewhere"])
def test_a_path_that_leads_out_of_the_project_is_refused_before_anything_is_removed(path):
    with pytest.raises(ValueError, match="lies outside of the project"):
        Recipe("run", "prepare", "c", b"", ".", "digits", ["prepare"], {}, {path: "md5"})


def trial(point: dict[str, str]) -> Recipe:
    words = ["study", "s.yaml", "--storage", "sqlite:///mine.db", "-j", "2", "--distill.lambda", "2"]
    return Recipe("trial 3", "trial 3", "c" * 40, b"", ".", "digits", words, {}, {}, trial=point)


def test_a_trial_is_its_study_file_with_one_point_and_a_storage_of_its_own(tmp_path):
    choices = "{type: choice, choices: [1, 2]}"
    (tmp_path / "s.yaml").write_text(f"search:\n  a: {choices}\n  b: {{type: float, low: 0, high: 1}}\ntrials: 40\n")
    made = narrowed(trial({"a": "2", "b": "0.25"}), tmp_path, tmp_path / "scratch")
    text = (tmp_path / "s.yaml").read_text()
    assert '"enqueue": [\n    {\n      "a": 2,\n      "b": 0.25\n    }\n  ]' in text
    assert '"trials": 1' in text
    assert list(made.words[:4]) == ["study", "s.yaml", "--distill.lambda", "2"]
    assert "sqlite:///mine.db" not in made.words


def test_a_trial_of_what_its_file_does_not_search_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_text("search: {}\n")
    with pytest.raises(ValueError, match="a is not searched by its study file"):
        narrowed(trial({"a": "2"}), tmp_path, tmp_path)

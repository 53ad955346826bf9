"""Trials in this process, on toy data: what they measure, what they leave, and how they end."""

import shutil
import sys
from pathlib import Path

import optuna
import pytest
import torch
from toy_project import note_of

from attndistill import evaluations
from attndistill.core import registry
from attndistill.core.artifacts import read_json
from attndistill.data.store import validation_indices
from attndistill.experiments import open_experiment
from attndistill.models.storage import load_model
from attndistill.outcomes import read_outcome
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item
from attndistill.stages.context import Context
from attndistill.stages.layout import Layout
from attndistill.study import studies, validation, worker
from attndistill.study.commands import run_studies
from attndistill.study.lost import RETRIES, give_back
from attndistill.study.outcome import importances, outcome_of
from attndistill.study.search import Search, read_search
from attndistill.study.storage import Place
from attndistill.study.studies import load_study
from attndistill.study.trial import TrialJournal
from attndistill.study.validation import ValidationContext
from attndistill.tracking import Recorder

ROOT = Path(__file__).parents[2]
COMPLETE, PRUNED, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL


def searched(project, overrides=None, **changes) -> tuple[Search, optuna.Study]:
    """Run a study to its end in this process."""
    path, overrides = project.write(**changes), overrides or {}
    run_studies([str(path)], project.experiment(), overrides, storage=None, artifacts=None, workers=1)
    search = read_search(path, project.experiment(), overrides)
    return search, load_study(search)


def test_the_objective_is_the_pipelines_student_judged_on_the_validation_part_and_test_is_never_opened(project):
    data, aside = project.root / "outputs/data", project.root / "aside"
    aside.mkdir()
    for path in list(data.glob("test-*")):
        path.rename(aside / path.name)
    search, study = searched(project, trials=2)
    for path in list(aside.iterdir()):  # the pipeline's stage asks for the whole data set
        path.rename(data / path.name)
    assert [trial.state for trial in study.trials] == [COMPLETE, COMPLETE]
    first = study.trials[0]
    assert first.params == {"distill.lambda": 0.1, "distill.projector_depth": 1}
    assert study.trials[1].params["distill.lambda"] != 0.1
    run_stage(project.experiment(), STAGES["distill"], Item("attndistill"), first.params)
    config, layout = project.experiment().config("attndistill", {}), Layout(project.root, "digits")
    rows = project.experiment().file
    context = ValidationContext(config, layout, "study", Item("attndistill"), rows, Recorder(None))
    student, _ = load_model(layout.weights("attndistill", 0))
    everything = Context(config, layout, "study", Item("attndistill"), rows, Recorder(None)).images("train")
    assert context.judge(student, everything, ["knn_top1"]) == {"knn_top1": first.value}
    assert set(context.images("test").names).isdisjoint(context.images("train").names)
    assert len(context.images("test")) + len(context.images("train")) == len(everything)
    assert first.intermediate_values[2] == first.value  # of the last epoch
    assert not any(search.folder.iterdir())


TUNED = {
    "epochs": 1, "batch_size": 32, "base_learning_rate": 0.004, "warmup_epochs": 0, "precision": "fp32",
    "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.05},
}  # fmt: skip


def test_a_study_may_aim_at_fine_tuning_and_probes_of_many_heads_on_validation(project):
    """Test is never opened; the figure is the evaluation's own on the validation part, and no checkpoint is left."""
    for path in (project.root / "outputs/data").glob("test-*"):
        path.unlink()
    heads = {"blocks": 1, "rates": [0.1, 1.0], "recipe": TUNED | {"optimizer": {"name": "sgd", "momentum": 0.9}}}
    tuned = {"protocol": "beit-ld-v1", "mixing_group": 32, "recipe": TUNED}
    overrides = {"probe.finetune": tuned, "probe.linear_ibot": heads}
    search, study = searched(project, overrides, objectives=["finetune_top1", "linear_ibot_top1"], trials=1)
    (trial,) = study.trials
    assert trial.state == COMPLETE
    held_out = len(validation_indices(project.root / "outputs/data"))
    for value in trial.values:  # percentages of the validation part's images
        assert 0 <= value <= 100
        assert value * held_out / 100 == pytest.approx(round(value * held_out / 100))
    assert outcome_of(search, study).protocol.startswith("finetune and linear_ibot on the validation part of train")
    assert not any(search.folder.iterdir())
    with pytest.raises(
        ValueError, match=r"finetune_top1 asks for probe\.finetune, which is null; allowed: its settings"
    ):
        read_search(project.write(objectives=["finetune_top1"]), project.experiment(), {})


def test_a_trial_leaves_its_curves_and_panels_as_artifacts_in_its_note_and_the_study_one_file_without_times(project):
    search, study = searched(project)
    for trial in study.trials:
        note = note_of(study, trial)
        links = [line.partition("](")[2].rstrip(")") for line in note.splitlines() if line.startswith("![")]
        assert [link.split("/")[:4] for link in links] == 3 * [
            ["", "artifacts", str(study._study_id), str(trial._trial_id)]
        ]
        pictures = [(search.place.artifacts / link.split("/")[4]).read_bytes() for link in links]
        assert all(picture.startswith(b"\x89PNG") for picture in pictures)
        assert f"| knn_top1 | {trial.value:.6g} |" in note
    path = project.root / "search/found/toy.json"
    found = read_json(path)
    assert [trial["values"] for trial in found["trials"]] == [trial.values for trial in study.trials]
    assert [trial["given"] for trial in found["trials"]] == [True, False, False]
    assert found["best"] == [study.best_trial.number]
    assert found["importances"] is None  # of three trials there are none to speak of
    assert found["importances_by_seed"] == []
    for trial in found["trials"]:
        assert [pytest.approx(sum(each) / len(each)) for each in trial["by_seed"]] == trial["values"]
    pictures = sorted(path.name for path in (project.root / "outputs/study/toy").iterdir())
    assert pictures == ["found.json", "slices.png"]
    before = path.read_bytes()
    searched(project)  # nothing is left to do
    assert path.read_bytes() == before


def test_an_evaluation_that_is_registered_is_an_objective_without_another_edit(project, tmp_path, monkeypatch):
    (tmp_path / "centroid.py").write_text(
        "from types import SimpleNamespace\n"
        "from attndistill.evaluations import EVALUATIONS\n"
        '@EVALUATIONS.register("width", title="Width", figures={"dimensions": ("width", "", "minimize", 0)})\n'
        "def width(data, *, factor: float = 2.0):\n"
        "    return SimpleNamespace(figures={'dimensions': factor * data.train.features.shape[1]})\n"
    )
    sources = registry._sources
    monkeypatch.setattr(
        registry,
        "_sources",
        lambda home: sources(home) + [("centroid", tmp_path / "centroid.py")] * (home == "attndistill.evaluations"),
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._declared.cache_clear()
    evaluations.evaluations.cache_clear()
    try:
        _, study = searched(project, objectives=["width_dimensions", "kl_to_teacher"], trials=1)
        found = read_outcome(project.root / "search/found/toy.json")
    finally:
        registry._declared.cache_clear()
        evaluations.evaluations.cache_clear()
        evaluations.EVALUATIONS._entries.pop("width", None)
        sys.modules.pop("centroid", None)
    width = project.experiment().config("attndistill", {}).student.embed_dim
    assert study.trials[0].values[0] == 2.0 * width
    assert found.directions == ["minimize", "minimize"]
    assert found.protocol.startswith("width on the validation part of train")


@pytest.mark.parametrize("objectives", [["kl_to_teacher"], ["knn_top5", "logistic_top1"], ["parameters", "knn_top1"]])
def test_every_figure_of_an_evaluation_is_an_objective_alone_or_beside_another(project, objectives):
    _, study = searched(project, objectives=objectives, trials=1)
    assert [trial.state for trial in study.trials] == [COMPLETE]
    assert all(value > 0 for value in study.trials[0].values)
    directions = {"kl_to_teacher": "MINIMIZE", "parameters": "MINIMIZE"}
    assert [direction.name for direction in study.directions] == [directions.get(n, "MAXIMIZE") for n in objectives]


def test_two_objectives_give_a_front_and_an_importance_for_each(project):
    _, study = searched(project, objectives=["knn_top1", "kl_to_teacher"], trials=4)
    found = read_json(project.root / "search/found/toy.json")
    front = [trial for trial in found["trials"] if trial["number"] in found["best"]]
    for trial in found["trials"]:
        beaten = [
            other
            for other in found["trials"]
            if other["values"][0] >= trial["values"][0]
            and other["values"][1] <= trial["values"][1]
            and other["values"] != trial["values"]
        ]
        assert (trial in front) == (not beaten)
    assert found["directions"] == ["maximize", "minimize"]
    assert all(trial.values[1] > 0 for trial in study.trials)


def test_a_trial_without_finite_losses_fails_alone(project):
    rate = {"type": "float", "low": 1e-3, "high": 1e30, "scale": "log"}
    given = [{"distill.recipe.base_learning_rate": value} for value in (1e30, 1e-3)]
    _, study = searched(project, search={"distill.recipe.base_learning_rate": rate}, enqueue=given, trials=2)
    assert [trial.state for trial in study.trials] == [FAIL, COMPLETE]
    assert "image indices [" in study.trials[0].user_attrs["error"]
    assert note_of(study, study.trials[0]).startswith("**Trial 0** failed: FloatingPointError: ")
    found = read_json(project.root / "search/found/toy.json")
    assert [trial["state"] for trial in found["trials"]] == ["fail", "complete"]


def test_a_rate_at_which_the_only_step_ends_infinite_fails_its_trial_alone_with_a_line(project, capfd):
    rates = [1e10, 1e19, 1e30, 1e38, 1e39, 1e300, 1e308, 1e-3]
    space = {"distill.recipe.base_learning_rate": {"type": "float", "low": 1e-3, "high": 1e308, "scale": "log"}}
    given = [{"distill.recipe.base_learning_rate": rate} for rate in rates]
    one_step = {"distill.recipe.epochs": 1, "distill.recipe.batch_size": 700, "distill.recipe.warmup_epochs": 0}
    for objectives in (["logistic_top1"], ["kl_to_teacher"]):
        _, study = searched(project, one_step, search=space, enqueue=given, trials=len(given), objectives=objectives)
        assert study.trials[-1].state == COMPLETE
        failed = [trial for trial in study.trials if trial.state == FAIL]
        assert len(failed) >= 5
        assert all(trial.state == COMPLETE for trial in study.trials if trial not in failed)
        assert all(trial.user_attrs["error"].isprintable() for trial in failed)
    printed = capfd.readouterr()
    assert printed.out.count("fail FloatingPointError: ") + printed.out.count("fail RuntimeError: ") >= 10
    assert "Traceback" not in printed.err


def test_settings_that_do_not_fit_together_are_pruned_with_the_reason_and_equal_ones_are_not_trained_twice(project):
    heads = {"type": "choice", "choices": [2, 3]}
    width = {"type": "choice", "choices": [24, 32]}
    given = [{"student.embed_dim": 32, "student.num_heads": 2}, {"student.embed_dim": 24, "student.num_heads": 2}]
    changes = {"search": {"student.embed_dim": width, "student.num_heads": heads}, "enqueue": given}
    with pytest.raises(ValueError, match=r"search.student.embed_dim: student: embed_dim 32 is not a multiple"):
        searched(project, **changes)
    width["choices"] = [24, 48]
    given[0]["student.embed_dim"] = 48
    _, study = searched(project, **changes, trials=6)
    assert {trial.state for trial in study.trials} == {COMPLETE}
    twins = [trial for trial in study.trials if "same_as" in trial.user_attrs]
    assert len(twins) >= 2  # six trials of four settings
    assert all(trial.values == study.trials[trial.user_attrs["same_as"]].values for trial in twins)


def test_a_pruned_trial_ends_after_its_first_figure_and_leaves_no_folder(project, monkeypatch):
    monkeypatch.setattr(studies, "pruner_of", lambda _: optuna.pruners.ThresholdPruner(lower=100.5))
    search, study = searched(project, trials=2)
    assert [trial.state for trial in study.trials] == [PRUNED, PRUNED]
    assert [list(trial.intermediate_values) for trial in study.trials] == [[1], [1]]
    for trial in study.trials:
        note = note_of(study, trial)
        assert note.startswith(f"**Trial {trial.number}**, pruned after 1 of 2 epochs")
        assert note.count("![") == 1
    assert not any(search.folder.iterdir())


def test_a_pruner_sees_the_seeds_of_a_trial_one_after_another(project):
    config = project.experiment().config("attndistill", {"seeds": [4, 7], "distill.recipe.epochs": 5})
    trial = optuna.create_study(direction="maximize").ask()
    journal = TrialJournal(Recorder(None), trial, "validation_knn_top1", config)
    journal.metrics({"seed-4/loss": 1.0, "seed-4/validation_knn_top1": 50.0}, step=5)
    journal.metrics({"seed-7/validation_knn_top1": 60.0}, step=2)
    assert trial.study.trials[0].intermediate_values == {5: 50.0, 7: 60.0}


def test_importances_name_the_setting_that_the_best_trials_share():
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_metric_names(["knn_top1", "kl_to_teacher"])
    for number in range(60):
        trial = study.ask()
        high, low = trial.suggest_float("high", 0, 1), trial.suggest_float("low", 0, 1)
        # many settings are equally bad, few are good: the sign of an objective matters
        study.tell(trial, [min(100 * high, 50) if high < 0.9 else 90.0, min(low, 0.1) + number * 1e-9])
    found = importances(study)
    assert found["knn_top1"]["high"] > 0.8
    assert found["kl_to_teacher"]["low"] > 0.8


def test_importances_by_a_seed_come_from_its_own_figures():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_metric_names(["knn_top1"])
    for _ in range(60):
        trial = study.ask()
        one, other = (trial.suggest_float(name, 0, 1) for name in ("one", "other"))
        each = [90.0 if setting > 0.9 else 50.0 + setting for setting in (one, other)]
        trial.set_user_attr("by_seed", [each])
        study.tell(trial, sum(each) / 2)
    first, second = (importances(study, seed)["knn_top1"] for seed in (0, 1))
    assert first["one"] > 0.8
    assert second["other"] > 0.8


def test_another_configuration_is_another_study_unless_the_searched_or_runtime_settings_differ(project):
    path = project.write()
    names = [
        read_search(path, project.experiment(), overrides).stored_name
        for overrides in ({}, {"distill.alignment_weight": 2.0}, {"runtime.workers": 1})
    ]
    assert names[0] != names[1]
    assert names[0] == names[2]
    text = (project.root / "params.yaml").read_text()
    assert text.count("lambda: 0.1\n") == 1
    (project.root / "params.yaml").write_text(text.replace("lambda: 0.1\n", "lambda: 0.7\n"))
    assert read_search(path, project.experiment(), {}).stored_name == names[0]


@pytest.mark.parametrize("changes", [{"probe.linear": None}, {"probe.knn.temperature": 0.2}], ids=["null", "unused"])
def test_a_setting_that_is_null_or_of_a_probe_that_does_not_judge_renames_no_study(tmp_path, changes):
    searches = [
        read_search(ROOT / "search/default.yaml", open_experiment(ROOT), overrides) for overrides in ({}, changes)
    ]
    assert searches[0].configuration == searches[1].configuration


TOO_LARGE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    MemoryError("Unable to allocate 9.00 GiB for an array"),
]


@pytest.mark.parametrize("error", TOO_LARGE, ids=lambda error: type(error).__name__)
def test_a_trial_too_large_for_the_memory_fails_alone_with_the_reason_in_its_line_and_note(
    project, monkeypatch, capfd, error
):
    run = validation.distill.run

    def small_memory(context):
        if context.config.distill.projector_depth == 1:
            raise error
        return run(context)

    monkeypatch.setattr(validation.distill, "run", small_memory)
    given = [{"distill.lambda": 0.1, "distill.projector_depth": depth} for depth in (1, 2)]
    _, study = searched(project, enqueue=given, trials=2)
    assert [trial.state for trial in study.trials] == [FAIL, COMPLETE]
    assert note_of(study, study.trials[0]) == f"**Trial 0** failed: {type(error).__name__}: {error}"
    printed = capfd.readouterr()
    assert f"trial 0: fail {type(error).__name__}: {error} (" in printed.out
    assert "Traceback" not in printed.err


def test_a_mistake_of_the_program_is_no_trials_failure(project, monkeypatch):
    def broken(context):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(validation.distill, "run", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        searched(project, trials=1)


def test_a_worker_that_comes_too_late_for_the_last_trial_adds_none(project):
    search, study = searched(project, trials=1)
    before = outcome_of(search, study)
    worker._one(search, study)
    assert [trial.state for trial in study.trials] == [COMPLETE, FAIL]
    assert outcome_of(search, study) == before


def test_an_interrupted_trial_waits_again_however_often_and_a_lost_one_three_times(tmp_path, capsys):
    for problem, runs in ((KeyboardInterrupt(), 9), (ValueError("no space"), 1 + RETRIES)):
        study = optuna.create_study(storage=Place.of(tmp_path, None, None).open())
        study.enqueue_trial({"x": 0.5})
        for number in range(9):
            if any(trial.state == optuna.trial.TrialState.WAITING for trial in study.trials):
                study.tell(study.ask(), state=FAIL)
                give_back(study, number, problem)
        assert sum(trial.state == FAIL for trial in study.trials) == runs
    assert "trial 3 is dropped after 4 ends: ended by: no space" in capsys.readouterr().out
    assert note_of(study, study.trials[3]).endswith("ended by: no space; it is dropped after 4 such ends")


def test_a_study_under_other_settings_does_not_touch_the_file_for_git(project):
    searched(project, trials=2)
    tracked = project.root / "search/found/toy.json"
    before = tracked.read_bytes()
    search, _ = searched(project, {"distill.alignment_weight": 2.0, "runtime.workers": 0}, trials=2)
    assert tracked.read_bytes() == before
    found = read_json(project.root / f"outputs/study/toy-{search.digest}/found.json")
    assert (found["overrides"], found["epochs"]) == ({"distill.alignment_weight": 2.0}, 2)
    assert (found["planned"], found["state"]) == (2, "finished")


def test_a_study_that_has_not_ended_does_not_replace_one_with_more_trials(project, monkeypatch, capsys):
    searched(project, trials=2)
    tracked = project.root / "search/found/toy.json"
    before = tracked.read_bytes()
    assert read_json(tracked)["state"] == "finished"
    shutil.rmtree(project.root / ".work/study")
    run, calls = validation.distill.run, []

    def interrupted(context):
        calls.append(context)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return run(context)

    monkeypatch.setattr(validation.distill, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        searched(project, trials=2)
    assert tracked.read_bytes() == before
    found = read_json(project.root / "outputs/study/toy/found.json")
    assert (found["state"], len(found["trials"])) == ("unfinished", 1)
    assert "toy.json stays: it has 2 trials, this study 1 so far" in capsys.readouterr().out

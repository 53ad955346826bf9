"""What searches found appears in the report when there is something, drawn from the tracked file alone."""

import csv
import json
import re

import numpy as np
import pytest
from written_experiment import outcome

from attndistill.figures.search import _best_of_each_place


@pytest.fixture
def build(experiment, tmp_path):
    def built(*found: dict) -> str:
        folder = tmp_path / "found"
        for study in found:
            folder.mkdir(exist_ok=True)
            (folder / f"{study['study']}.json").write_text(json.dumps(study))
        experiment.build(searches=folder)
        return experiment.page

    return built


def test_without_a_study_the_page_has_no_search(build):
    assert 'id="search"' not in build()


def test_a_study_is_told_with_its_best_trial_its_given_points_and_its_figures(build, experiment):
    page = build(outcome())
    text = page.partition('id="search"')[2]
    assert (
        "5 trials: 4 complete, 1 pruned. Objective: logistic_top1 (the largest is best); logistic on the validation"
        in text
    )
    lines = re.findall(r'<tr><th scope="row">(.*?)</th>((?:<td>.*?</td>)+)</tr>', text)
    told = [(name, re.findall("<td>(.*?)</td>", cells)) for name, cells in lines[:3]]
    assert told == [
        ("2", ["1", "2", "93.25"]),
        ("0 (given)", ["0.1", "4", "91"]),
        ("1 (given)", ["0.01", "1", "90"]),
    ]
    figures = experiment.destination / "figures" / "search" / "default"
    assert sorted(path.name for path in figures.iterdir()) == [
        "importances.png",
        "slices.png",
        "surface.png",
    ]
    assert text.count('src="data:image/png;base64,') >= 3


def test_a_study_of_two_objectives_has_its_front_and_every_figure_of_each(build, experiment):
    two = outcome(objectives=["logistic_top1", "kl_to_teacher"], directions=["maximize", "minimize"], best=[2, 1])
    for trial in two["trials"]:
        trial["values"] = trial["values"] and [*trial["values"], trial["settings"]["distill.lambda"]]
    two["importances"]["kl_to_teacher"] = two["importances"]["logistic_top1"]
    text = build(two).partition('id="search"')[2]
    figures = {path.stem for path in (experiment.destination / "figures/search/default").iterdir()}
    each = {f"{kind}_{name}" for kind in ("importances", "slices", "surface") for name in two["objectives"]}
    assert figures == {"front", *each}
    assert text.count("The two objectives against each other") == 1
    assert text.count("diamonds are the best trials") == 4


def test_an_outcome_that_is_not_the_study_files_own_says_so(build):
    text = build(outcome(state="unfinished", planned=30, epochs=40, overrides={"distill.alignment_weight": 2.0}))
    assert "mean over seeds 0, 1, 40 epochs each." in text
    assert "Unfinished: 5 of 30 trials have ended. Not the files&#39; settings: distill.alignment_weight 2.0." in text


def test_of_trials_at_one_place_the_surface_shows_the_best_whichever_objective_it_is():
    x, y, values = np.array([0.0, 0.0, 1.0]), np.array([2.0, 2.0, 2.0]), np.array([5.0, 7.0, 1.0])
    assert _best_of_each_place(x, y, values) == [1, 2]
    assert _best_of_each_place(x, y, -values) == [0, 2]


def test_every_trial_is_in_the_csv_and_the_printed_ones_in_latex(build, experiment):
    build(outcome())
    search = experiment.destination / "search"
    lines = list(csv.DictReader((search / "default.csv").open()))
    assert [(line["trial"], line["state"], line["best"], line["logistic_top1"]) for line in lines[2:]] == [
        ("2", "complete", "True", "93.25"),
        ("3", "complete", "False", "88.5"),
        ("4", "pruned", "False", ""),
    ]
    assert lines[0]["distill.projector_depth"] == "4"
    tex = (search / "default.tex").read_text()
    assert r"\multicolumn{4}{l}{\emph{Best}} \\" in tex
    assert r"2 & 1 & 2 & 93.25 \\" in tex
    assert r"logistic\_top1 (the largest is best)" in tex


def test_the_same_file_draws_the_same_bytes(build, experiment):
    def pictures() -> dict[str, bytes]:
        build(outcome())
        return {path.name: path.read_bytes() for path in (experiment.destination / "figures/search").rglob("*.png")}

    assert pictures() == pictures()


def test_a_file_that_is_no_outcome_is_refused_by_name(build):
    broken = outcome()
    del broken["trials"]
    with pytest.raises(ValueError, match=r"default.json: trials: Field required$"):
        build(broken)

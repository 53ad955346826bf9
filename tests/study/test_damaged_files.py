"""Damaged and hostile study files, outcomes and journals: one line, soon, and nothing is run or written."""

import json
import os
import random
import re
import time
from pathlib import Path

import optuna
import pytest
from nested import changed, places
from ruamel.yaml import YAML
from toy_project import STUDY

from attndistill.core.artifacts import read_json
from attndistill.experiments import open_experiment
from attndistill.outcomes import Outcome, read_outcome, read_outcomes
from attndistill.study.search import read_search
from attndistill.study.storage import Place

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "search/found/default.json"
VALUES = [None, [], {}, "", "x", True, -1, 1.5, 10**30, [[1]], {"a": {"b": [None]}}, "\x1b[31m", "x" * 100_000]


def refusal(path: Path, read) -> str:
    """The one line by which `path` is refused, within two seconds of work; nothing is made beside it."""
    before, start = sorted(path.parent.iterdir()), time.process_time()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is looked at below
        read(path)
    assert time.process_time() - start < 2
    assert sorted(path.parent.iterdir()) == before
    text = str(caught.value)
    assert path.name in text
    assert text.isprintable()
    assert len(text) < 4_000
    return text


def as_study(path: Path):
    return read_search(path, open_experiment(ROOT), {})


def damages(value, seed: int):
    """(name, damaged value): each key of the first levels missing, and wrong values at drawn places."""
    draw, all_places = random.Random(seed), list(places(value))
    for place in (place for place in all_places if len(place) == 1):
        yield f"without {place[0]}", changed(value, place, places)
        yield f"null at {place[0]}", changed(value, place, None)
    for number in range(80):
        yield f"{number} wrong", changed(value, draw.choice(all_places), draw.choice(VALUES))


def test_a_study_file_with_a_damaged_value_is_taken_only_where_the_value_is_allowed(tmp_path):
    path, refused = tmp_path / "mine.yaml", 0
    for name, damaged in damages(STUDY, seed=0):
        with path.open("w") as file:
            YAML(typ="safe").dump(damaged, file)
        try:
            search = as_study(path)
        except ValueError:
            refused += 1
            refusal(path, as_study)
            continue
        assert search.definition.plain() == damaged, name
    assert refused > 80


@pytest.mark.parametrize("name", ["a b", "..", "a.b", "-;ls", "a\nb", "é", "a\u202eb", " "])
def test_a_study_whose_name_is_not_letters_digits_dash_and_underscore_is_refused(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(STUDY, file)
    with pytest.raises(ValueError, match=r"a study's name is its file's: .*allowed: letters, digits, - and _") as error:
        as_study(path)
    assert str(error.value).isprintable()


def test_the_committed_outcome_is_read_and_written_as_the_same_values():
    outcome = read_outcome(FOUND)
    assert outcome.plain() == read_json(FOUND)
    assert {trial.number for trial in outcome.complete} >= set(outcome.best)


def test_an_outcome_with_a_damaged_value_is_taken_only_where_the_value_is_allowed(tmp_path):
    whole, path, refused = read_json(FOUND), tmp_path / "default.json", 0
    for name, damaged in damages(whole, seed=1):
        path.write_text(json.dumps(damaged))
        try:
            outcome = read_outcome(path)
        except ValueError:
            refused += 1
            refusal(path, read_outcome)
            continue
        assert outcome.plain() == {**damaged, "study": "default"}, name
    assert refused > 80


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("study",), "../../README", "study"),
        (("study",), "/tmp/mine", "study"),
        (("best",), [10_000], "best: .10000. are not all numbers of complete trials"),
        (("directions",), ["maximize", "minimize"], "directions: 2 of them for 1 objectives"),
        (("surface",), ["distill.lambda", "distill.none"], "distill.none is not searched"),
        (("importances", "logistic_top1", "data.set"), 0.5, "data.set is not searched"),
        (("trials", 0, "values"), None, "trials: 0 has no value for each objective"),
        (("trials", 0, "values"), [1.0, 2.0], "trials: 0 has no value for each objective"),
        (("trials", 1, "number"), 0, "trials: two have the same number"),
        (("trials", 0, "settings", "data.set.root"), "/", "trials: 0 has other settings than were searched"),
        (("trials", 0, "settings", "distill.lambda"), 1e9, "trials: 0: distill.lambda 1000000000.0 was not searched"),
        (
            ("trials", 0, "settings", "distill.projector_depth"),
            "4; ls",
            "distill.projector_depth 4; ls was not searched",
        ),
    ],
)
def test_an_outcome_that_contradicts_itself_is_refused_by_its_field(tmp_path, place, value, said):
    path = tmp_path / "default.json"
    path.write_text(json.dumps(changed(read_json(FOUND), place, value)))
    assert re.search(said, refusal(path, read_outcome))


def test_readers_of_outcomes_leave_hidden_and_temporary_files_alone_and_name_a_study_by_its_file(tmp_path):
    for name in ("mine.json", ".mine-x7.json", ".hidden.json", "mine.json~", "notes.txt"):
        (tmp_path / name).write_bytes(FOUND.read_bytes() if name == "mine.json" else b"half a fi")
    assert [outcome.study for outcome in read_outcomes(tmp_path)] == ["mine"]


@pytest.mark.parametrize("field", sorted(name for name, one in Outcome.model_fields.items() if one.is_required()))
def test_an_outcome_without_a_field_is_refused_by_the_fields_name(tmp_path, field):
    path = tmp_path / "default.json"
    path.write_text(json.dumps(changed(read_json(FOUND), (field,), places)))
    assert f"default.json: {field}: " in refusal(path, read_outcome)


def test_a_damaged_journal_is_refused_in_one_line_or_its_torn_end_left_out(tmp_path):
    path = tmp_path / "mine.journal"
    place = Place.of(tmp_path, str(path), "artifacts")
    optuna.create_study(storage=place.open(), study_name="mine")
    lines = path.read_bytes()
    assert b"mine" in lines
    for damaged in (b"{", b"null", b"[]", b"\xff\xff", b'{"op_code": 99}', b"[" * 100_000, b"9" * 5_000, b"\0" * 99):
        path.write_bytes(damaged + b"\n" + lines)
        with pytest.raises(ValueError, match=r"storage .*mine.journal is not a journal of studies$"):
            place.open()
    path.write_bytes(lines + b'{"op_code": 4, "wor')  # as a killed worker leaves it
    assert [study.study_name for study in place.open().get_all_studies()] == ["mine"]


def test_a_pipe_in_the_place_of_a_storage_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for address in ("pipe", f"sqlite:///{tmp_path}/pipe"):
        with pytest.raises(ValueError, match=r"storage .*/pipe is not a regular file"):
            Place.of(tmp_path, address, None).open()

"""Damaged and hostile study files, outcomes and journals: one line, soon, and nothing is run or written."""

import json
import os
import random
import re
import time
from pathlib import Path

import optuna
import pytest
from ruamel.yaml import YAML
from toy_project import STUDY

from attndistill.core.artifacts import read_json
from attndistill.experiments import open_experiment
from attndistill.study.outcome import Outcome, read_outcome, read_outcomes
from attndistill.study.search import read_search
from attndistill.study.storage import Place

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "search/found/default.json"
VALUES = [None, [], {}, "", "x", True, -1, 1.5, 10**30, [[1]], {"a": {"b": [None]}}, "\x1b[31m", "x" * 100_000]
LAMBDA = "search: {distill.lambda: {type: float, low: 0.01, high: 1.0, scale: log}}"
LONG = "9" * 5_000
TEXTS = {
    "nothing": "",
    "only null": "null",
    "a list": "[1, 2]",
    "a text": "hello",
    "cut": "row: attndistill\nsearch: {distill.lambda: {type: flo",
    "not a bool": "row: !!bool hello",
    "not an int": "trials: !!int hello",
    "not a date": "row: 2001-99-99",
    "a real date": "row: 2001-09-09",
    "python": "row: !!python/object/apply:os.system ['touch executed']",
    "python name": "row: !!python/name:os.system",
    "an unknown tag": "row: !mine x",
    "binary": "row: !!binary ====",
    "a set": "row: !!set {a, b}",
    "infinite": "timeout: .inf\nmargin: .inf",
    "not a number": "timeout: .nan\npaper: .nan",
    "a huge integer": f"trials: {LONG}",
    "a huge hexadecimal": f"trials: 0x{LONG}",
    "a huge base 60": f"trials: {'59:' * 3000}59",
    "a huge float": f"timeout: 1e{LONG}",
    "deep lists": "row: " + "[" * 100_000,
    "deep mappings": "row: " + "{a: " * 5_000 + "1" + "}" * 5_000,
    "forty levels": "row: " + "[" * 40 + "]" * 40,
    "itself": "row: &a [*a]",
    "itself in a mapping": "&a {row: *a}",
    "itself by merging": "row: &a {<<: *a}",
    "an alias of nothing": "row: *a",
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "merged laughs": "a: &a {x: 1}\n" + "\n".join(
        f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 10)}]}}" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "a key twice": "row: a\nrow: b",
    "a list for a key": "[a, b]: c",
    "a mapping for a key": "{a: b}: c",
    "a number for a key": "1: 2",
    "null for a key": "~: 2",
    "two documents": "row: a\n---\nrow: b",
    "a tabulator": "row:\n\t- a",
    "a null byte": "row: a\0b",
    "escapes": 'row: "\\e]0;mine\\a"',
    "ten thousand unknown keys": "\n".join(f"k{number}: 1" for number in range(9_000)),
    "more values than a study has": "row: [" + "1," * 20_000 + "]",
    "five megabytes": "row: " + "x" * 5_000_000,
    "a billion trials": "trials: 1000000000",
}  # fmt: skip
BYTES = {"latin": b"row: \xff\xfe", "utf-16": "row: a".encode("utf-16"), "zeros": bytes(4096), "gzip": b"\x1f\x8b\x08"}


def refusal(path: Path, read) -> str:
    """The one line by which `path` is refused, within two seconds; nothing is made beside it."""
    before, start = sorted(path.parent.iterdir()), time.monotonic()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is looked at below
        read(path)
    assert time.monotonic() - start < 2
    assert sorted(path.parent.iterdir()) == before
    text = str(caught.value)
    assert path.name in text
    assert text.isprintable()
    assert len(text) < 4_000
    return text


def as_study(path: Path):
    return read_search(path, open_experiment(ROOT), {})


def places(value, place=()):
    """Every place within nested values."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(value[key], (*place, key))


def changed(value, place, new):
    """A copy with another value at a place; without the place where `new` is `places`."""
    copy = json.loads(json.dumps(value))
    *parents, last = place
    node = copy
    for part in parents:
        node = node[part]
    if new is places:
        del node[last]
    else:
        node[last] = new
    return copy


def damages(value, seed: int):
    """(name, damaged value): each key of the first levels missing, and wrong values at drawn places."""
    draw, all_places = random.Random(seed), list(places(value))
    for place in (place for place in all_places if len(place) == 1):
        yield f"without {place[0]}", changed(value, place, places)
        yield f"null at {place[0]}", changed(value, place, None)
    for number in range(80):
        yield f"{number} wrong", changed(value, draw.choice(all_places), draw.choice(VALUES))


@pytest.mark.parametrize("name", [*TEXTS, *BYTES])
def test_a_hostile_study_file_is_refused_in_one_line_within_two_seconds(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_bytes(BYTES[name] if name in BYTES else TEXTS[name].encode())
    refusal(path, as_study)


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


def test_a_study_file_with_flipped_bytes_or_cut_is_refused_or_read_and_never_a_traceback(tmp_path):
    draw, whole, path = (
        random.Random(0),
        (ROOT / "search/default.yaml").read_bytes(),
        tmp_path / "mine.yaml",
    )
    for _ in range(60):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.5 else whole)
        for _ in range(draw.randrange(4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            as_study(path)
        except ValueError:
            refusal(path, as_study)


@pytest.mark.parametrize("name", ["a b", "..", "a.b", "-;ls", "a\nb", "é", "a\u202eb", " "])
def test_a_study_whose_name_is_not_letters_digits_dash_and_underscore_is_refused(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(STUDY, file)
    with pytest.raises(ValueError, match=r"a study's name is its file's: .*allowed: letters, digits, - and _") as error:
        as_study(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("read", [as_study, read_outcome])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path, read, kind):
    path = tmp_path / "mine"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert "not a regular file" in refusal(path, read)


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
    "text",
    [
        "", "null", "[]", "{", "[" * 100_000, '{"a":' * 50_000, f'{{"epochs": {LONG}}}', f'{{"best": [{LONG}]}}', "NaN",
        '{"epochs": NaN}', '{"study": "\\ud800"}', '{"study": "a", "study": "b"}', "x" * 1_000_000, "\0",
    ],
    ids=range(14),
)  # fmt: skip
def test_a_text_that_is_no_outcome_is_refused_in_one_line_within_two_seconds(tmp_path, text):
    path = tmp_path / "default.json"
    path.write_text(text)
    refusal(path, read_outcome)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("study",), "../../README", "study"),
        (("study",), "/tmp/mine", "study"),
        (("best",), [10_000], "best: .10000. are not all numbers of complete trials"),
        (("directions",), ["maximize", "minimize"], "directions: 2 of them for 1 objectives"),
        (("surface",), ["distill.lambda", "distill.none"], "distill.none is not searched"),
        (("importances", "logistic_top1", "data.set"), 0.5, "data.set is not searched"),
        (("trials", 0, "values"), None, "trials: 0 is complete and has no value for each objective"),
        (("trials", 0, "values"), [1.0, 2.0], "trials: 0 is complete and has no value for each objective"),
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


@pytest.mark.parametrize("field", sorted(set(Outcome.model_fields)))
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

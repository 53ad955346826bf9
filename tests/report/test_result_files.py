"""What is written is read by the same types: good files byte for byte, and every bad one refused in a line."""

import copy
import json
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from written_experiment import Experiment, attention_arrays, outcome, probe_file, training_file

from attndistill.outcomes import Outcome, read_outcome
from attndistill.results import (
    AttentionFile,
    Measurement,
    MetricsFile,
    ProbeFile,
    StudentMaps,
    TableFile,
    TeacherMaps,
    TrainingFile,
    flat_metrics,
    read_typed,
)

REPOSITORY = Path(__file__).parents[2]
RANDOM = np.random.default_rng(0)
DIGESTS = {"class_list_sha256": "ab" * 32, "data_digest": "cd" * 32}


def small_training() -> dict:
    file = training_file("attndistill", RANDOM)
    kept = {seed: {name: points[:2] for name, points in curves.items()} for seed, curves in file["curves"].items()}
    return file | {"curves": {seed: kept[seed] for seed in list(kept)[:2]}}


def summary(mean: float) -> dict:
    return {"mean": mean, "n": 3, "protocol": "p", "sd": 0.5}


DIFFERENCE = {"mean": 1.0, "sd": 0.5, "n": 3, "interval": [0.1, 1.9], "p": 0.02, "p_holm": 0.04, "verdict": "holds"}
GOOD = {
    ProbeFile: probe_file("attndistill", RANDOM),
    AttentionFile: {"model": "m", "kl_to_teacher": Measurement.of([0.1, 0.2], [0, 1], "kl").model_dump()} | DIGESTS,
    TrainingFile: small_training(),
    TableFile: {
        "models": {"m": {"parameters": 3, "knn": {"top1": summary(80.0)}}},
        "differences": {"m - n": {"knn": {"top1": DIFFERENCE}}},
        "claims": {"m beats n": {"k-NN top-1": DIFFERENCE | {"judge": "every"}}},
    },
    MetricsFile: {"m": {"knn_top1": 80.0, "knn_top1_n": 3}},
    Outcome: outcome(),
}
OPTIONAL = {
    TableFile: {"parameters", "sd", "mean", "interval", "p", "p_holm", "judge", "claims"},
    Outcome: {"epochs", "surface", "importances", "importances_by_seed", "values"},
}
JSON_KINDS = list(GOOD)


def places(value, path=()) -> Iterator[tuple]:
    """Every key, and the first element of every list."""
    for key in value if isinstance(value, dict) else range(min(1, len(value))) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(good: dict, path: tuple, change) -> dict:
    value = copy.deepcopy(good)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    change(inside, path[-1])
    return value


CHANGES = {
    "missing": lambda inside, key: inside.pop(key),
    "null": lambda inside, key: inside.__setitem__(key, None),
    "text": lambda inside, key: inside.__setitem__(key, "\x1b[31mtext\nline"),
    "object": lambda inside, key: inside.__setitem__(key, {"": [{}]}),
    "nan": lambda inside, key: inside.__setitem__(key, float("nan")),
    "infinity": lambda inside, key: inside.__setitem__(key, float("-inf")),
    "huge": lambda inside, key: inside.__setitem__(key, 10**400),
}


def refusal(read, path: Path) -> str | None:
    """The one line that a broken file is refused with; None where it is read."""
    began = time.process_time()
    try:
        read(path)
    except ValueError as error:
        text = str(error)
        assert text.isprintable(), text
        assert str(path) in text
        assert len(text) < 1200
        assert time.process_time() - began < 2
        return text
    return None


def read_json_of(kind):
    return lambda path: read_typed(kind, path)


@pytest.mark.parametrize("kind", JSON_KINDS)
def test_every_field_that_is_missing_or_wrong_is_refused_by_name(kind, tmp_path):
    path, tried = tmp_path / "file.json", 0
    for place in places(GOOD[kind]):
        for name, change in CHANGES.items():
            optional = OPTIONAL.get(kind, set())
            element = isinstance(place[-1], int) or kind is MetricsFile
            allowed = place[-1] in optional and name in ("missing", "null")
            if allowed or (name == "missing" and element) or any(key in ("overrides", "protocol") for key in place):
                continue
            path.write_text(json.dumps(changed(GOOD[kind], place, change)))
            said = refusal(read_json_of(kind), path)
            if said is None:
                assert name in ("text", "missing"), f"{place} {name} is read"  # a text, or one of several by name
                continue
            named = [str(key) for key in place if isinstance(key, str)]
            assert any(key in said for key in named[-3:]), f"{place} {name}: {said}"
            tried += 1
    assert tried >= 5


def test_a_key_that_is_given_twice_is_named(tmp_path):
    path = tmp_path / "attention.json"
    path.write_text(json.dumps(GOOD[AttentionFile]).replace('"n": 2', '"n": 1, "n": 2'))
    assert refusal(AttentionFile.read, path) == f"{path}: n: given 2 times in one object; allowed: once"


def test_maps_that_lack_an_array_or_hold_a_wrong_one_are_refused_by_its_name(tmp_path):
    path = tmp_path / "maps.npz"
    for kind, model in ((TeacherMaps, "teacher"), (StudentMaps, "attndistill")):
        good, wrong = attention_arrays(model, 3), {}
        for name, array in good.items():
            others = {key: value for key, value in good.items() if key != name}
            wrong |= {(name, "missing"): others, (name, "short"): good | {name: array[:2]}}
            wrong |= {
                (name, "flat"): good | {name: array[..., None]},
                (name, "type"): good | {name: np.zeros(array.shape, "c16")},
            }
            wrong |= {
                (name, "none"): {key: value[:0] for key, value in good.items()} if name == next(iter(good)) else others
            }
            wrong[name, "object"] = good | {name: array.astype(object)}
            wrong[name, "columns"] = good | {name: np.asfortranarray(array) if array.ndim > 1 else array[:1]}
            if array.dtype == np.float32:
                wrong[name, "nan"] = good | {name: np.full_like(array, np.nan)}
            if array.dtype == np.float32 and name != "kl":
                wrong[name, "negative"] = good | {name: -array}
        wrong["surprise", "surprise"] = good | {"surprise": np.zeros(3)}
        if kind is TeacherMaps:
            wrong["names", "twice"] = good | {"names": np.array(["a", "a", "b"])}
            wrong["classes", "surrogate"] = good | {"classes": np.array(["\ud800", "b", "c"])}
        for (name, _), arrays in wrong.items():
            np.savez(path, **arrays)
            said = refusal(kind.read, path)
            assert said, name
            assert name in said or "K" in said, (name, said)
        np.savez_compressed(path, **good)
        assert "compressed" in refusal(kind.read, path)


def test_maps_that_are_cut_flipped_or_claim_to_be_endless_are_refused(tmp_path):
    path = tmp_path / "maps.npz"
    np.savez(path, **attention_arrays("attndistill", 2))
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 15)):
        path.write_bytes(whole[:cut])
        assert refusal(StudentMaps.read, path)
    read = 0
    for place in RANDOM.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        path.write_bytes(bytes(flipped))
        read += refusal(StudentMaps.read, path) is None
    assert read <= 20  # dates and other notes of the archive decide nothing
    with ZipFile(BytesIO(whole)) as archive, ZipFile(path, "w") as endless:
        for name in archive.namelist():
            content = archive.read(name)
            longer = content.replace(b"(2, 3, 4, 4), }          ", b"(2, 3, 4, 4000000000), } ")
            endless.writestr(name, longer)
    assert "heads: float32 (2, 3, 4, 4000000000) given" in refusal(StudentMaps.read, path)


@pytest.mark.parametrize(
    "change",
    [
        {"study": "../../README"},
        {"objectives": ["../x"]},
        {"best": [3, 99]},
        {"best": [4]},
        {"surface": ["distill.lambda", "b"]},
        {"directions": []},
        {"importances": {"../../x": {"distill.lambda": 1.0}}},
        {"importances": {"logistic_top1": {"other": 1.0}}},
        {"trials": [{"number": 0, "state": "complete", "settings": {}, "values": [1.0], "given": True}], "best": []},
        {"trials": outcome()["trials"] * 2},
        {"search": {"distill.lambda": {"type": "float", "low": 0.5, "high": 9.0, "scale": "log"}}, "surface": None},
    ],
)
def test_a_study_that_does_not_fit_together_or_names_a_path_is_refused(change, tmp_path):
    path = tmp_path / "default.json"
    path.write_text(json.dumps(outcome(**change)))
    said = refusal(read_outcome, path)
    assert said
    assert any(key in said for key in [*change, "trials", "importances"])


@pytest.mark.parametrize("row", ["../README", "a/b", ".hidden", "a\nb", "x" * 300, ""])
def test_a_row_whose_name_is_no_files_name_is_refused(experiment, row):
    experiment.rows = {row: {"label": "x", "set": {}}}
    with pytest.raises(ValueError, match=r"row .* given; allowed: names that can be a file's"):
        experiment.build()


def test_nothing_is_written_where_a_file_is_refused(experiment):
    experiment.edit("probes/scratch.json", lambda file: file.pop("feature"))
    root = experiment.results.parent
    before = sorted(root.rglob("*"))
    with pytest.raises(ValueError, match=r"scratch.json: feature: Field required"):
        experiment.build()
    assert sorted(root.rglob("*")) == before


def test_a_study_is_written_under_its_files_name_inside_the_reports_folder(experiment, tmp_path):
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "other.json").write_text(json.dumps(outcome()))
    before = {path for path in tmp_path.rglob("*") if experiment.destination not in path.parents}
    experiment.build(searches=folder)
    assert (experiment.destination / "search" / "other.csv").exists()
    after = {path for path in tmp_path.rglob("*") if experiment.destination not in path.parents}
    assert after - before <= {experiment.destination}


@pytest.mark.parametrize(
    ("folder", "kind"), [("probes", ProbeFile), ("attention", AttentionFile), ("training", TrainingFile)]
)
def test_the_results_in_git_are_written_again_byte_for_byte(folder, kind, tmp_path):
    files = [path for path in REPOSITORY.rglob(f"results/{folder}/*.json") if ".work" not in path.parts]
    assert len(files) >= 50
    for path in files:
        kind.read(path).write(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes(), path


def test_the_curves_in_git_are_written_again_byte_for_byte(tmp_path):
    for path in REPOSITORY.glob("results/training/*.json"):
        TrainingFile.read(path).write_csv(tmp_path / "again.csv")
        wanted = path.with_suffix(".csv").read_text().splitlines()
        assert sorted((tmp_path / "again.csv").read_text().splitlines()) == sorted(wanted)


def test_the_outcomes_of_studies_in_git_are_read():
    found = [read_outcome(path) for path in REPOSITORY.rglob("search/found/*.json")]
    assert found
    for study in found:
        assert study.plain()["trials"][0]["settings"] == study.trials[0].settings


def test_training_is_told_by_its_histories(tmp_path):
    history = {"loss": [[1, 0.5], [2, 0.25]], "probe_top1": [[2, 90.0]]}
    file = TrainingFile.of("m", "distill", {0: history, 1: {**history, "loss": [[1, 0.5], [2, 0.75]]}})
    assert file.summary == {"loss": 0.5, "probe_top1": 90.0}
    file.write_csv(tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text().splitlines()[:4] == [
        "seed,epoch,curve,value",
        "0,1,loss,0.5",
        "0,2,loss,0.25",
        "0,2,probe_top1,90",
    ]


def test_maps_are_written_as_they_are_read(tmp_path):
    maps = StudentMaps(**attention_arrays("attndistill", 2))
    maps.write(tmp_path / "a.npz")
    StudentMaps.read(tmp_path / "a.npz").write(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_metrics_are_the_first_figure_of_each_evaluation_flat_and_rounded(experiment: Experiment):
    table = experiment.build().table
    metrics = flat_metrics(table).model_dump()
    assert list(metrics["attndistill"]) == [
        f"{key}{part}" for key in ("knn_top1", "logistic_top1", "kl_to_teacher") for part in ("", "_sd", "_n")
    ]
    knn = table.models["attndistill"].evaluations["knn"]["top1"]
    assert metrics["attndistill"]["knn_top1"] == round(knn.mean, 3)
    assert metrics["attndistill"]["kl_to_teacher"] == round(
        table.models["attndistill"].evaluations["attention"]["kl_to_teacher"].mean, 5
    )
    assert set(metrics["teacher"]) == {"knn_top1", "knn_top1_n", "logistic_top1", "logistic_top1_n"}

"""Names that others gave are shown as text; a new evaluation has its column; a terminal shows the end."""

import csv
import json
import re
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from written_experiment import LABELS, measured, outcome, probe_file

from attndistill.evaluations import EVALUATIONS, evaluations
from attndistill.figures.charts import accuracy_bars, loss_curves, probe_curve
from attndistill.figures.search import Setting, importance_bars, slices, trial_curves
from attndistill.report.build import ACCURACIES, LOSSES, curve_columns
from attndistill.results import MetricsFile, TableFile
from attndistill.stages.layout import Layout
from attndistill.stages.report import judged_on

HOSTILE = '\x1b[2J$\\frac{$\n=HYPERLINK("x")\u202e<b>'
DECLARED = '''
from attndistill.evaluations import EVALUATIONS


@EVALUATIONS.register(
    "calibration",
    title="Calibration",
    figures={"ece": ("error", "", "minimize", 3), "kept": ("kept", "%", "maximize", 2)},
)
def calibration(data):
    """How far confidence is from accuracy."""


@EVALUATIONS.register("knn", title="Neighbours")
def knn(data):
    """As ours, under another title."""
'''


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB"))


@pytest.fixture
def other_evaluations(tmp_path, monkeypatch):
    """The registry with an entry more, in a package of its own."""
    package = tmp_path / "declared_elsewhere" / "evaluations"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "calibration.py").write_text(DECLARED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(EVALUATIONS, "home", "declared_elsewhere.evaluations")
    evaluations.cache_clear()
    yield
    evaluations.cache_clear()


def test_a_new_evaluation_has_its_columns_with_title_unit_digits_and_direction(other_evaluations, experiment):
    random = np.random.default_rng(0)
    for path in (experiment.results / "attention").iterdir():
        path.unlink()
    for place, model in enumerate(LABELS):
        file = probe_file(model, random)
        seeds = file["probes"]["knn"]["top1"]["seeds"]
        figures = {"ece": 0.05 + 0.01 * place + 0.001 * random.random(len(seeds)), "kept": np.full(len(seeds), 12.345)}
        told = {name: measured("ece/15-bins-v1", values, seeds) for name, values in figures.items()}
        calibration = {**told, "selected": {"bins": [15] * len(seeds)}, "sweep": {}}
        file["probes"] = {"knn": file["probes"]["knn"], "calibration": calibration}
        (experiment.results / "probes" / f"{model}.json").write_text(json.dumps(file))
    built = experiment.build()
    with (experiment.destination / "table.md").open() as file:
        heads = file.readline()
    assert heads == (
        "| Method | Parameters | Calibration, error | Calibration, kept (%) | Neighbours, top-1 (%) "
        "| Neighbours, top-5 (%) | Seeds |\n"
    )
    table = (experiment.destination / "table.md").read_text()
    scratch = built.table.models["scratch"].evaluations["calibration"]["ece"]
    assert f"**{scratch.mean:.3f} ± {scratch.sd:.3f}**" in table  # the least error, the teacher aside
    assert "12.35 ± 0.00" in table or "12.34 ± 0.00" in table
    assert ">Calibration<" in experiment.page
    assert "Calibration" in built.words
    differences = built.table.differences["attndistill - scratch"]
    assert list(differences) == ["calibration", "knn"]
    assert "Calibration error" in (experiment.destination / "differences.csv").read_text()


def test_an_evaluation_that_nobody_declared_is_refused_by_name(experiment):
    experiment.edit("probes/scratch.json", lambda file: file["probes"].update(other=file["probes"]["knn"]))
    with pytest.raises(ValueError, match=r"scratch.json: probes.other given; allowed: knn, logistic"):
        experiment.build()


def test_hostile_labels_classes_and_features_are_shown_as_text(experiment, tmp_path):
    experiment.rows["attndistill"] |= {"label": f"={HOSTILE}", "group": HOSTILE}
    experiment.claims = [{"claim": f"@{HOSTILE}", "better": ["attndistill"], "worse": ["scratch"]}]
    for model in LABELS:
        experiment.edit(f"probes/{model}.json", lambda file: file.update(feature=HOSTILE))
    maps = experiment.outputs / "attention" / "teacher" / "maps.npz"
    np.savez(maps, **dict(np.load(maps)) | {"classes": np.array([HOSTILE] * 6)})
    for path in experiment.outputs.glob("exhibits/*/exhibits.json"):
        told = json.loads(path.read_text())
        told["confusion"] |= {"protocol": HOSTILE, "classes": [HOSTILE] * 4, "pairs": [[HOSTILE, HOSTILE, 1]]}
        for photo in [*told["mistakes"], *told["neighbours"], *told["neighbours"][0]["nearest"]]:
            photo |= {key: HOSTILE for key in ("name", "kind", "taken_for") if key in photo}
        path.write_text(json.dumps(told))
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "default.json").write_text(json.dumps(outcome(protocol=HOSTILE)))
    experiment.write_curves()
    words = experiment.build(title=HOSTILE, description={HOSTILE: HOSTILE}, searches=folder).words
    texts = [path for path in experiment.destination.rglob("*") if path.suffix in (".html", ".csv", ".tex", ".md")]
    assert len(texts) == 16
    for text in [words, *(path.read_text() for path in texts)]:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
        assert "<b>" not in text or "\\x1b" in text
    assert "<b>" not in experiment.page
    for path in texts:
        if path.suffix == ".csv":
            cells = [cell for line in csv.reader(path.open(newline="")) for cell in line]
            assert [cell for cell in cells if re.match(r"[=+@\t]|-(?![\d.])", cell)] == []
    assert all(len(line) <= 100 for line in words.splitlines() if not line.startswith(("note", "report", "best")))


def test_a_dollar_in_a_label_is_no_formula_in_any_chart():
    """An unbalanced brace between dollars is an error to TeX; drawn as text, two different ones differ."""
    one, other = "a $\\frac{$ b", "a $\\frac{$ c"
    values, curve = [np.array([80.0, 81.0])], (np.arange(3.0), np.array([[3.0, 2.0, 1.0]]))
    setting = Setting(one, [0.1, 1.0], log=True)
    assert slices([setting], np.array([1.0, 2.0]), objective=one, best=[0])
    assert importance_bars({one: 0.5}, {}, evaluator=one)
    assert trial_curves({"0": {one: (curve[0], curve[1][0])}})
    for draw in (
        lambda label: accuracy_bars([label], {label: values}),
        lambda label: probe_curve({label: curve}, ylabel=label),
        lambda label: loss_curves({label: {label: curve}}),
    ):
        assert not np.array_equal(pixels(draw(one)), pixels(draw(other)))


def test_a_label_that_begins_with_an_underscore_has_its_place_in_the_legend():
    curve = (np.arange(3.0), np.array([[1.0, 2.0, 3.0]]))
    assert not np.array_equal(*(pixels(probe_curve({label: curve}, ylabel="y")) for label in ("_a", "_b")))


def test_the_end_is_the_table_in_a_hundred_columns_the_page_and_the_best_students_folder(experiment):
    experiment.rows["attndistill"]["label"] = "AttnDistill " * 12
    words = experiment.build().words.splitlines()
    table = words[: words.index("")]
    assert max(map(len, table)) <= 100
    assert table[1].split() == ["Method", "top-1", "(%)", "top-1", "(%)", "nats", "Seeds"]
    assert len(table) == 2 + len(LABELS)
    assert f"report: {experiment.destination / 'index.html'}" in words
    (best,) = (line for line in words if line.startswith("best student"))
    assert best.startswith(f"best student: {experiment.outputs / 'weights' / 'attndistill'} (AttnDistill")


def test_a_chosen_hyper_parameter_at_the_end_of_its_sweep_is_noted_at_the_end_and_under_the_table(experiment):
    assert "may lie beyond" not in experiment.build().words

    def at_the_end(file):
        file["probes"]["knn"]["selected"] = {"k": [100, 20, 100, 20, 20]}

    experiment.edit("probes/attndistill.json", at_the_end)
    note = (
        "k-NN: k = 100, the largest of 3 tried, was chosen for AttnDistill (2 of 5 seeds): a better one may lie beyond."
    )
    assert f"note: {note}" in experiment.build().words
    for name in ("index.html", "table.md", "table.tex"):
        assert note in (experiment.destination / name).read_text()


def test_the_page_says_first_what_was_found_with_seeds_and_p(experiment):
    experiment.build()
    size, first = re.search(
        r"<main>\s*<p[^>]*>(.*?)</p>\s*<ul[^>]*>\s*<li>(.*?)</li>", experiment.page, re.DOTALL
    ).groups()
    assert re.fullmatch(
        r"AttnDistill has 10\d % of the teacher&#39;s k-NN top-1 at 46 % of its parameters and 20 % of its FLOPs"
        r'<span id="pace" data-models="[0-9a-f ]{129}"></span>\.',
        size,
    )
    assert first.startswith("AttnDistill − Projector alignment only, k-NN top-1: +")
    assert re.search(r"95 % interval \+.* to \+.*, n = 5 shared seeds, p [=&].*p \(Holm\) ", first)


def test_what_a_report_leaves_for_git_is_read_by_its_types(experiment, tmp_path):
    experiment.write_curves()
    built = experiment.build()
    paths = built.write(tmp_path / "kept")
    assert [str(path.relative_to(tmp_path / "kept")) for path in paths] == [
        "report/table.json",
        "metrics.json",
        "curves/loss.csv",
        "curves/pretraining.csv",
    ]
    assert TableFile.read(paths[0]) == built.table
    assert set(MetricsFile.read(paths[1]).model_dump()) == set(LABELS)
    for name, columns in curve_columns(experiment.rows_file, list(experiment.pretrained), []).items():
        lines = list(csv.DictReader((tmp_path / "kept" / name).open()))
        assert list(lines[0]) == ["epoch", *columns]
        assert len(lines) == (40 if name == LOSSES else 10)


@pytest.mark.drivers
def test_dvc_draws_the_curves_of_all_models_on_one_axis(experiment, tmp_path):
    experiment.write_curves()
    place = tmp_path / "project"
    experiment.build().write(place / "results")
    columns = curve_columns(experiment.rows_file, list(experiment.pretrained), [])
    entries = {f"results/{name}": {"x": "epoch", "y": named} for name, named in columns.items()}
    (place / "dvc.yaml").write_text(json.dumps({"plots": [{name: entry} for name, entry in entries.items()]}))

    def dvc(*arguments):
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=place, check=True, capture_output=True, text=True, timeout=120).stdout

    dvc("init", "--no-scm")
    shown = json.loads(dvc("plots", "show", "--json"))["data"]
    assert set(shown) == {f"results/{name}" for name in (LOSSES, ACCURACIES)}
    for drawn in shown.values():
        fields = {point["field"] for point in drawn[0]["content"]["data"]["values"]}
        assert fields <= set(LABELS)
        assert len(fields) >= 2


def test_models_judged_on_a_further_data_set_have_a_table_of_their_own(experiment):
    random = np.random.default_rng(5)
    digests = {"class_list_sha256": "12" * 32, "data_digest": "34" * 32}
    for model in ("teacher", "attndistill"):
        file = experiment.results / "probes" / f"{model}@other.json"
        file.write_text(json.dumps(probe_file(model, random) | digests))
    table = experiment.build(datasets={"other": digests}).table
    found = table.datasets["other"]["attndistill"].evaluations["knn"]["top1"]
    assert found.mean != table.models["attndistill"].evaluations["knn"]["top1"].mean
    assert table.datasets["other"]["scratch"].evaluations == {}
    lines = {line["model"]: line for line in csv.DictReader((experiment.destination / "table@other.csv").open())}
    assert float(lines["attndistill"]["knn_top1_mean"]) == found.mean
    assert lines["attndistill"]["data_digest"] == "34" * 32
    assert "<h3>Judged on other</h3>" in experiment.page
    with pytest.raises(ValueError, match="data_digest differs"):
        experiment.build(datasets={"other": digests | {"data_digest": "56" * 32}})
    page = experiment.page
    layout = Layout(experiment.results.parent, "digits")
    assert judged_on(layout, ["never", "other"]) == {"other": {}}  # its images are not on this machine
    experiment.build(datasets=judged_on(layout, ["never", "other"]))
    assert experiment.page == page

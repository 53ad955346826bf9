"""The report: what was measured is printed, what was not stays empty, what does not belong together is refused."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from attndistill.results import Measurement


class Cells(HTMLParser):
    """Texts of the first table's body, line by line, and every address the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.addresses: list[str] = []
        self.tables = 0
        self.inside = False

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        self.tables += tag == "table"
        if self.tables == 1 and tag == "tr":
            self.lines.append([])
        if self.tables == 1 and tag in ("td", "th"):
            self.lines[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.lines[-1][-1] += data


def parsed(text: str) -> Cells:
    cells = Cells()
    cells.feed(text)
    return cells


def line_of(experiment, label: str) -> list[str]:
    return next(line for line in parsed(experiment.page).lines if line[0] == label)


def values_of(experiment, model: str, probe: str, metric: str) -> np.ndarray:
    file = json.loads((experiment.results / "probes" / f"{model}.json").read_text())
    return np.array(file["probes"][probe][metric]["values"])


def test_the_table_prints_mean_and_sample_sd_over_seeds(experiment):
    models = experiment.build().table.models
    values = values_of(experiment, "attndistill", "knn", "top1")
    printed = f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    assert line_of(experiment, "AttnDistill")[1:3] == ["92,880", printed]
    assert line_of(experiment, "AttnDistill")[-1] == "5"
    assert models["attndistill"].evaluations["knn"]["top1"].mean == pytest.approx(values.mean())
    assert models["attndistill"].evaluations["knn"]["top1"].sd == pytest.approx(values.std(ddof=1))
    assert models["teacher"].evaluations["knn"]["top1"].sd is None  # one seed


def test_page_csv_and_tex_agree(experiment):
    experiment.build()
    values = values_of(experiment, "scratch", "logistic", "top5")
    with (experiment.destination / "table.csv").open(newline="") as file:
        lines = {line["model"]: line for line in csv.DictReader(file)}
    assert float(lines["scratch"]["logistic_top5_mean"]) == pytest.approx(values.mean())
    assert lines["scratch"]["logistic_top5_protocol"] == "logistic/standardised-lbfgs-v2"
    printed = f"{values.mean():.1f} $\\pm$ {values.std(ddof=1):.1f}"
    tex = (experiment.destination / "table.tex").read_text()
    assert printed in next(line for line in tex.splitlines() if line.startswith("Student from scratch (MAE)"))
    assert tex.count("\\begin{tabular}") == tex.count("\\toprule") == tex.count("\\bottomrule") == 1


def test_the_best_student_is_bold_and_the_teacher_never_is(experiment):
    def top1(*values):
        return Measurement.of(values, range(len(values)), "knn/dino-v1").model_dump(mode="json")

    experiment.edit("probes/teacher.json", lambda file: file["probes"]["knn"].update(top1=top1(99.9)))
    experiment.edit("probes/scratch.json", lambda file: file["probes"]["knn"].update(top1=top1(*[95.0] * 5)))
    experiment.build()
    tex = (experiment.destination / "table.tex").read_text()
    bold = [line.split(" & ")[0] for line in tex.splitlines() if "\\textbf{95.0" in line or "\\textbf{99.9" in line]
    assert bold == ["Student from scratch (MAE)"]


def test_protocol_and_feature_stand_beside_the_figures(experiment):
    experiment.build()
    head = parsed(experiment.page).lines[:2]
    assert "k-NNcls_token before the projector" in head[0]
    assert "top-1 (%)knn/dino-v1" in head[1]
    assert "top-1 (%)logistic/standardised-lbfgs-v2" in head[1]


def test_a_feature_that_differs_is_named_in_its_line_and_the_usual_one_once(experiment):
    experiment.edit("probes/teacher.json", lambda file: file.update(feature="cls_token of the last block"))
    experiment.build()
    lines = [line[0] for line in parsed(experiment.page).lines]
    assert "Teacher (MAE)cls_token of the last block" in lines
    assert "AttnDistill" in lines
    assert "Where a line names no feature, it is cls_token before the projector." in experiment.page


def test_cells_nobody_measured_are_empty(experiment):
    experiment.edit("probes/projector_alignment.json", lambda file: file["probes"].pop("logistic"))
    (experiment.results / "attention" / "projector_alignment.json").unlink()
    models = experiment.build().table.models
    line = line_of(experiment, "Projector alignment only")
    assert line[2] != ""
    assert line[4:7] == ["", "", ""]
    assert set(models["projector_alignment"].evaluations) == {"knn"}
    with (experiment.destination / "table.csv").open(newline="") as file:
        lines = {line["model"]: line for line in csv.DictReader(file)}
    assert lines["projector_alignment"]["logistic_top1_mean"] == ""


def test_a_report_on_nothing_but_names_has_empty_lines_and_no_sections(experiment, tmp_path):
    experiment.results = experiment.outputs = tmp_path / "empty"
    experiment.destination = tmp_path / "report"
    built = experiment.build()
    names = {"teacher", "scratch", "projector_alignment", "attndistill"}
    assert built.table.model_dump(exclude_unset=True) == {"models": {name: {} for name in names}, "differences": {}}
    assert "<img" not in experiment.page
    assert line_of(experiment, "AttnDistill") == ["AttnDistill", "", ""]


def test_learning_rates_are_not_drawn_among_the_losses(experiment):
    from attndistill.report.entries import read_entries
    from attndistill.report.pictures import charts

    def drop_rates(file):
        for curves in file["curves"].values():
            curves.pop("learning_rate")

    def drawn():
        entries = read_entries(experiment.results, experiment.outputs, experiment.rows_file, experiment.pretrained)
        return charts(entries, [])

    experiment.write_curves()
    first = drawn()
    assert sorted(first) == ["pretraining.png", "training.png"]
    experiment.edit("training/attndistill.json", drop_rates)
    assert drawn() == first


def test_a_model_without_maps_has_no_line_in_the_panels(experiment):
    from PIL import Image

    experiment.build()
    panel = experiment.destination / "figures" / "attention" / "test-00003.png"
    height = Image.open(panel).height
    (experiment.outputs / "attention" / "scratch" / "maps.npz").unlink()
    experiment.build()
    assert Image.open(panel).height == height - 118


def test_every_pictured_image_is_exported_by_class_with_the_methods_side_by_side(experiment):
    from PIL import Image

    path = experiment.outputs / "attention" / "teacher" / "maps.npz"
    np.savez(path, **dict(np.load(path)) | {"featured": np.arange(6) == 2})
    experiment.build()
    destination = experiment.destination
    assert [path.name for path in (destination / "figures" / "attention").iterdir()] == ["test-00002.png"]
    exported = sorted(str(path.relative_to(destination / "attn_vis")) for path in destination.glob("attn_vis/*/*"))
    assert exported == [f"{number}/test-0000{number}.png" for number in range(6)]
    featured, other = destination / "figures/attention/test-00002.png", destination / "attn_vis/4/test-00004.png"
    assert Image.open(other).size == Image.open(featured).size  # three students below the teacher


@pytest.mark.parametrize("field", ["class_list_sha256", "data_digest"])
def test_models_measured_on_different_data_are_refused(experiment, field):
    experiment.edit("probes/scratch.json", lambda file: file.update({field: "ef" * 32}))
    with pytest.raises(ValueError, match=f"{field} differs: .* for teacher, {'ef' * 32} for scratch"):
        experiment.build()
    assert not experiment.destination.exists()


@pytest.mark.parametrize("field", ["class_list_sha256", "data_digest"])
def test_figures_of_other_data_than_the_experiment_now_holds_are_refused(experiment, field):
    """The report alone was run again after the data was prepared anew."""
    data = {"class_list_sha256": "ab" * 32, "data_digest": "cd" * 32}
    experiment.build(data=data)
    with pytest.raises(ValueError, match=f"{field} differs: 9+ for the experiment's data, .* for teacher"):
        experiment.build(data=data | {field: "99" * 32})


def test_attention_of_other_data_is_refused(experiment):
    experiment.edit("attention/scratch.json", lambda file: file.update(data_digest="ef" * 32))
    with pytest.raises(ValueError, match=f"data_digest differs: .* for teacher, {'ef' * 32} for scratch"):
        experiment.build()


def test_the_pretraining_curve_is_called_what_it_is(experiment):
    experiment.write_curves()
    experiment.build()
    text = experiment.page.partition('id="pretraining"')[2]
    assert "logistic regression with a fixed C" in text.partition("</figure>")[0]
    assert "Linear-probe accuracy" not in text


def test_two_protocols_in_one_column_are_refused(experiment):
    def other(file):
        file["probes"]["knn"]["top1"]["protocol"] = "knn/mugs-v1"

    experiment.edit("probes/attndistill.json", other)
    with pytest.raises(ValueError, match=r"knn top1: teacher was measured by knn/dino-v1, attndistill by knn/mugs-v1"):
        experiment.build()


def test_maps_of_other_images_than_the_teachers_are_refused(experiment):
    path = experiment.outputs / "attention" / "attndistill" / "maps.npz"
    np.savez(path, **{name: array[:5] for name, array in np.load(path).items()})
    with pytest.raises(
        ValueError, match=r"attndistill/maps.npz: kl: 5 images for AttnDistill; allowed: the teacher's 6"
    ):
        experiment.build()


def test_an_archive_with_objects_is_refused_and_never_unpickled(experiment):
    path = experiment.outputs / "attention" / "teacher" / "maps.npz"
    np.savez(path, **dict(np.load(path)) | {"names": np.array([print] * 6, dtype=object)})
    with pytest.raises(ValueError, match=r"teacher/maps.npz: names: object .* not an archive of plain arrays"):
        experiment.build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": [1.0, 2.0]}, "2 values for seeds"),
        ({"values": [1.0, 2.0, 3.0, 4.0, float("nan")]}, "finite number"),
        ({"seeds": [0, 0, 1, 2, 3]}, "one for each distinct seed allowed"),
    ],
)
def test_a_broken_figure_is_refused_in_one_line_naming_its_file(experiment, change, message):
    experiment.edit("probes/scratch.json", lambda file: file["probes"]["knn"]["top1"].update(change))
    with pytest.raises(ValueError, match=rf"probes/scratch\.json: probes\.knn\.top1.*{message}") as refusal:
        experiment.build()
    assert "\n" not in str(refusal.value)


def test_equal_results_give_equal_files(experiment):
    experiment.write_curves()

    def contents():
        experiment.build()
        files = sorted(path for path in experiment.destination.rglob("*") if path.is_file())
        return {str(path.relative_to(experiment.destination)): path.read_bytes() for path in files}

    first = contents()
    assert contents() == first
    assert {"index.html", "table.csv", "table.tex", "figures/accuracy.png", "figures/attention/test-00005.png"} <= set(
        first
    )


@pytest.mark.parametrize("destination", ["outputs", ".", "results/probes"])
def test_a_destination_that_would_destroy_something_is_refused(experiment, destination):
    place = experiment.outputs.parent / destination
    experiment.destination = place
    with pytest.raises(ValueError, match="report destination"):
        experiment.build()
    assert (experiment.results / "probes" / "teacher.json").exists()


def test_labels_and_provenance_are_escaped(experiment):
    experiment.rows["attndistill"]["label"] = "<script>alert(1)</script> & 100%_{x}"
    experiment.build(title="<b>bold</b>", description={"Commit": "<img src=x onerror=alert(1)>"})
    text = experiment.page
    own = '<script src="../speed.js"></script>\n<script>// What ../speed.js says of this machine'
    assert re.findall("<script[^>]*>", text) == re.findall("<script[^>]*>", own)
    assert own in text
    assert "<b>" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "100\\%\\_\\{x\\}" in (experiment.destination / "table.tex").read_text()


def test_the_page_refers_to_nothing_outside_itself(experiment):
    experiment.write_curves()
    experiment.build()
    text = experiment.page
    addresses = parsed(text).addresses
    assert len(addresses) >= 9  # three charts and six panels
    beside = [address for address in addresses if not address.startswith(("#", "data:"))]
    assert {"table.csv", "differences.tex", "sizes.md", "attn_vis/"} <= set(beside)
    elsewhere = {
        "../speed.js",
        *(f"../weights/{name}" for name in [*experiment.pretrained, *experiment.rows]),
    }  # the page is the same without them
    there = [address for address in beside if address not in elsewhere]
    assert [address for address in there if not (experiment.destination / address).exists()] == []
    assert re.findall(r"(?i)https?:|url\(|@import", text) == []


def test_every_figure_of_the_table_leads_to_its_command_seeds_and_what_to_type_to_rebuild_it(experiment):
    experiment.write_curves()
    experiment.build()
    figures = re.findall(r'<td[^>]*><a href="#(made-[^"]*)">', experiment.page)
    assert len(figures) == 4 * 4 + 3  # models by probes, top-1 and top-5; KL of the students
    for place in figures:
        (line,) = re.findall(rf'<th scope="row" id="{re.escape(place)}">(.*?)</tr>', experiment.page)
        kind, _, model = place.removeprefix("made-").removesuffix(".json").partition("/")
        stage = {"probes": "probe", "attention": "attention"}[kind]
        assert f"attndistill {stage} --model {model}<" in line
        assert f"attndistill rebuild results/{kind}/{model}.json<" in line
        assert (">0<" if model == "teacher" else ">0, 1, 2, 3, 4<") in line
    assert "attndistill rebuild results/training/attndistill.json" in experiment.page
    assert "attndistill distill --row attndistill" in experiment.page


def test_settings_of_every_model_that_was_trained_here_stand_on_the_page(experiment):
    experiment.rows["attndistill"]["set"] = {"distill.lambda": 0.3}
    recipe = {"recipe.base_learning_rate": 0.006, "recipe.batch_size": 64, "recipe.epochs": 40}
    method = {"lambda": 0.3, "aggregation.temperature": 10.0, "projector_depth": 4}
    experiment.build(settings={"attndistill": {f"distill.{key}": value for key, value in {**recipe, **method}.items()}})
    section = experiment.page.partition('<h3 id="settings">')[2].partition("</table>")[0]
    (line,) = re.findall(r'<tr><th scope="row">AttnDistill</th>(.*?)</tr>', section)
    assert re.findall("<td[^>]*>([^<]*)<", line) == ["0.3", "10", "4", "0.006", "64", "40", "distill.lambda 0.3"]


def test_the_page_shows_at_most_twelve_panels_spread_over_all_images(experiment):
    for model in ("scratch", "projector_alignment", "attndistill"):
        (experiment.outputs / "attention" / model / "maps.npz").unlink()
    path = experiment.outputs / "attention" / "teacher" / "maps.npz"
    arrays = {name: np.concatenate([array] * 5) for name, array in np.load(path).items()}
    np.savez(path, **arrays | {"names": np.array([f"image-{i}" for i in range(30)])})
    experiment.build()
    shown = re.findall(r"for image image-(\d+), class", experiment.page)
    assert [int(number) for number in shown] == list(range(0, 30, 3))
    assert "10 of 30 images are shown here" in experiment.page
    assert len(list((experiment.destination / "figures" / "attention").iterdir())) == 30


def test_rows_that_share_a_label_are_refused(experiment):
    experiment.rows["attndistill"]["label"] = experiment.pretrained["teacher"]
    with pytest.raises(ValueError, match="distinct labels allowed"):
        experiment.build()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("attndistill.report.build", {"matplotlib", "numpy", "pydantic", "jinja2", "torch"}),
        ("attndistill.results", {"matplotlib", "scipy", "sklearn", "torch"}),
    ],
)
def test_importing_the_report_or_its_files_types_loads_nothing_heavy(module, heavy):
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

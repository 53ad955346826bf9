"""The part of the page for people who look: maps over photos, neighbours, confusions, mistakes, size."""

import csv
import re

import numpy as np
import pytest
from written_experiment import KL, LABELS, exhibits_file, photos, write_json

from attndistill.figures.attention import overlay


def section(page: str, place: str) -> str:
    return page.partition(f'<h2 id="{place}">')[2].partition("<h2 ")[0]


def test_each_class_has_one_photo_with_every_models_map_over_it(experiment):
    experiment.build()
    looks = section(experiment.page, "attention").partition("<h3")[0]
    lines = re.findall(r"<tr><th scope=\"row\">.*?</tr>", looks, re.DOTALL)
    assert len(lines) == 6  # digits 0 to 5
    assert all(line.count("<img ") == 1 + len(LABELS) for line in lines)
    assert lines[0].count(f"KL {KL['attndistill']:.3f}") == 1


def test_a_map_colours_its_photo_where_the_model_looks_and_leaves_it_grey_elsewhere():
    image = np.full((32, 32, 3), (200, 40, 40), np.uint8)
    attention = np.zeros((4, 4), np.float32)
    attention[0, 0] = 0.7
    found = overlay(image, attention, tile=64).astype(int)
    assert np.ptp(found[40, 40]) == 0  # grey
    assert np.ptp(found[6, 6]) > 60


def test_neighbours_of_another_class_are_marked_for_teacher_and_best_student(experiment):
    experiment.build()
    near = section(experiment.page, "neighbours")
    heads = re.findall(r'<th scope="col" class="left">(.*?)</th>', near)
    assert heads == ["Photo", "Teacher (MAE)", "AttnDistill"]
    assert near.count("<img ") == 2 * (1 + 2 * 2)
    assert near.count('class="wrong"') == 2 * 2  # photo n + 5 of photo n, both lines, both models
    assert "0.91" in near


def test_the_confusion_of_the_best_student_has_every_count_and_its_worst_mistakes(experiment):
    experiment.build()
    text = section(experiment.page, "confusion")
    assert "What AttnDistill confuses" in experiment.page
    body = text.partition("<tbody>")[2].partition("</tbody>")[0]
    counts = [[cell or "0" for cell in re.findall(r"<td[^>]*>(\d*)</td>", line)] for line in body.split("</tr>")[:-1]]
    assert np.array(counts, int).tolist() == exhibits_file("attndistill")["confusion"]["counts"]
    assert "2 taken for 3, 75 % of the votes" in text


def test_the_size_of_every_model_is_told_with_its_share_of_the_teachers(experiment):
    experiment.build()
    lines = list(csv.DictReader((experiment.destination / "sizes.csv").open(newline="")))
    student = next(line for line in lines if line["model"] == "attndistill")
    assert (student["parameters"], student["flops"], student["weight_bytes"]) == ("92880", "6000000", "371520")
    assert re.search(
        r"AttnDistill</th><td>92,880</td><td>6 M</td><td>372 kB</td><td>46 %</td><td>20 %</td>", experiment.page
    )


def test_the_contents_lead_to_every_section(experiment):
    experiment.write_curves()
    experiment.build()
    contents = experiment.page.partition("<nav")[2].partition("</nav>")[0]
    linked = re.findall(r'href="#([^"]+)"', contents)
    assert linked == re.findall(r'<h2 id="([^"]+)"', experiment.page)
    assert {"table", "attention", "neighbours", "confusion", "files", "provenance"} <= set(linked)


def test_without_exhibits_the_page_has_none_and_says_the_rest(experiment):
    import shutil

    shutil.rmtree(experiment.outputs / "exhibits")
    experiment.build()
    assert 'id="neighbours"' not in experiment.page
    assert "at 46 % of its parameters." in experiment.page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file["mistakes"][0].update(picture=8), "picture 8 given; pictures.npz has 8"),
        (lambda file: file.update(model="other"), "model: 'other' given; allowed: 'scratch'"),
        (lambda file: file["confusion"]["counts"].pop(), "counts of 3 classes; allowed: 4 x 4"),
        (lambda file: file.update(flops=-1), "flops"),
    ],
)
def test_broken_exhibits_are_refused_in_one_line(experiment, change, said):
    told = exhibits_file("scratch")
    change(told)
    write_json(experiment.outputs / "exhibits/scratch/exhibits.json", told)
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        experiment.build()
    assert "\n" not in str(refused.value)
    assert not experiment.destination.exists()


def test_pictures_that_are_no_pictures_are_refused(experiment):
    np.savez(experiment.outputs / "exhibits/scratch/pictures.npz", images=photos(8)[..., 0])
    with pytest.raises(ValueError, match="images: shape"):
        experiment.build()


def test_rows_that_are_followed_have_their_accuracy_over_epochs_beside_pre_training(experiment):
    experiment.write_curves()
    experiment.build()
    assert '<h2 id="pretraining">Pre-training</h2>' in experiment.page
    row = next(iter(experiment.rows_file.rows))
    experiment.edit(f"training/{row}.json", lambda file: file["curves"]["0"].update(probe_top1=[[5, 40.0], [10, 60.0]]))
    built = experiment.build()
    page = experiment.page
    assert '<h2 id="pretraining">Accuracy over epochs</h2>' in page
    assert f"during distillation ({experiment.rows_file.rows[row].label})" in page
    lines = built.curves["curves/pretraining.csv"].splitlines()
    assert lines[0].endswith(f",{row}")
    assert any(line.startswith("10,") and line.endswith(",60") for line in lines)


def test_commands_in_a_note_are_code(experiment):
    experiment.build()
    assert "<code>attndistill report</code>" in experiment.page

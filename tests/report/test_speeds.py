"""Speeds beside the page: shown where they are those of the page's models, and no part of its bytes."""

import html
import json
import re
import subprocess

import pytest
from written_experiment import exhibits_file, write_json

from attndistill.core.artifacts import read_json
from attndistill.report import speeds
from attndistill.report.speeds import Paced, Sentence, SpeedFile, update

PLACE = "A <b>processor</b><script>document.title = 'broken'</script>, 1 thread, batches of 16"
RATES = {"teacher": 250.4, "scratch": 1012.0, "projector_alignment": 1003.0, "attndistill": 1026.64}


@pytest.fixture
def speed_file(experiment):
    """Where the page looks for it."""
    return experiment.destination.parent / "speed.js"


def write_speeds(path, models, *, place=PLACE, other=False) -> SpeedFile:
    """The file for these models; `other`: for other weights of the same names."""
    accounts = {one.name: one.account[::-1] if other else one.account for one in models}
    found = {
        accounts[name]: Paced(model=name, architecture="ab" * 32, images_a_second=RATES[name]) for name in accounts
    }
    pair = (accounts[models[0].name], accounts[models[1].name])
    told = SpeedFile(
        place=place, models=found, sentence=Sentence(models=pair, text=f", 4.1 times as fast (on {place})")
    )
    told.write(path)
    return told


def first_sentence(dom: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", re.findall(r'<p class="first">(.*?)</p>', dom, re.DOTALL)[0]))


def size_table(dom: str) -> list[list[str]]:
    table = dom.partition('<h2 id="sizes">')[2].partition("</table>")[0]
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall("<tr>(.*?)</tr>", table, re.DOTALL)]
    assert len({len(line) for line in lines[1:]}) == 1  # every line has every column
    return lines[1:]


def test_the_page_is_the_same_bytes_with_and_without_the_speeds_beside_it(experiment, speed_file):
    models = experiment.build().sized
    without = experiment.page
    write_speeds(speed_file, models)
    assert experiment.build().sized == models
    assert experiment.page == without
    assert "times as fast" not in without


@pytest.mark.drivers
def test_the_browser_shows_the_speeds_of_the_pages_own_models_as_text_and_of_no_others(experiment, speed_file, browse):
    experiment.rows["attndistill"]["label"] = "Attn<script>document.title = 'broken'</script>Distill"
    models = experiment.build().sized
    address = (experiment.destination / "index.html").as_uri()

    def shown() -> str:
        dom = browse("--dump-dom", address)
        assert "<title>Digits</title>" in dom  # no text became a script
        return dom

    whole = experiment.rows["attndistill"]["label"] + " has 100 % of the teacher's k-NN top-1 at 46 % of its parameters"
    without = shown()
    assert first_sentence(without) == f"{whole} and 20 % of its FLOPs."
    assert size_table(without)[0][-1] == "FLOPs"

    write_speeds(speed_file, models)
    dom = shown()
    assert first_sentence(dom) == f"{whole} and 20 % of its FLOPs, 4.1 times as fast (on {PLACE})."
    head, *lines = size_table(dom)
    assert head[-1] == "Images a second"
    assert [line[-1] for line in lines] == ["250", "1,012", "1,003", "1,027"]
    assert f"Images a second on {html.escape(PLACE, quote=False)}." in dom
    assert "<b>" not in dom

    write_speeds(speed_file, models, other=True)
    assert shown() == without
    for broken in (
        "attndistill_speed = null;",
        "attndistill_speed = {models: 5, sentence: []};",
        "attndistill_speed = {",
    ):
        speed_file.write_text(broken)
        assert shown() == without


def stored_models(experiment, *names) -> None:
    """Models of the rows, stored as the stages do, their sizes in the exhibits."""
    from attndistill.exhibits.making import flops_of
    from attndistill.models.storage import save_model
    from attndistill.models.vit import build_vit, count_parameters

    for name in names:
        width = 48 if name == "teacher" else 24
        sizes = {"embed_dim": width, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.0}
        vit = build_vit(32, 0, **sizes, position="sincos")
        place = folder_of(experiment)(name, 0)
        save_model(place, vit, image_size=32, vit={**sizes, "position": "sincos"})
        size = {"parameters": count_parameters(vit), "flops": flops_of(vit)}
        write_json(experiment.outputs / "exhibits" / name / "exhibits.json", exhibits_file(name) | size)


def folder_of(experiment):
    return lambda name, seed: experiment.outputs / "weights" / name / f"seed-{seed}"


@pytest.mark.drivers
def test_an_architecture_is_measured_once_whatever_its_models_weigh(experiment, speed_file, monkeypatch, capsys):
    models = experiment.build().sized
    assert [one.name for one in models] == ["attndistill", "teacher", "scratch", "projector_alignment"]
    stored_models(experiment, "teacher", "attndistill", "scratch")
    models = experiment.build().sized
    said = update(speed_file, models, folder_of(experiment))
    assert "speeds: measuring attndistill, teacher\n" in "".join(capsys.readouterr())
    found = SpeedFile.read(speed_file)
    assert [found.models[one.account].model for one in models[:3]] == ["attndistill", "teacher", "scratch"]
    rates = {one.model: one.images_a_second for one in found.models.values()}
    assert rates["attndistill"] == rates["scratch"] != rates["teacher"]
    assert list(found.sentence.models) == [models[0].account, models[1].account]
    own, teacher = (found.models[account].images_a_second for account in found.sentence.models)
    assert found.sentence.text == f", {own / teacher:.2g} times as fast (on {found.place})"
    assert re.search(r", \d+ threads?, batches of 16$", found.place)
    assert said == f"speeds: attndistill {found.sentence.text[2:]}; {speed_file}"

    def never(*_, **__):
        raise ValueError("measured again")

    before = speed_file.read_bytes()
    monkeypatch.setattr(subprocess, "run", never)
    assert update(speed_file, experiment.build().sized, folder_of(experiment)) == said
    assert speed_file.read_bytes() == before
    stored = folder_of(experiment)("teacher", 0) / "model.json"
    trained_anew = read_json(stored) | {"weights_sha256": "cd" * 32}
    write_json(stored, trained_anew)
    assert update(speed_file, models, folder_of(experiment)) == said
    write_json(stored, trained_anew | {"vit": trained_anew["vit"] | {"depth": 3}})
    assert update(speed_file, models, folder_of(experiment)) == "note: no speeds beside the page: measured again"


def test_a_report_of_a_project_whose_models_are_gone_is_made_and_says_so_in_one_line(experiment, speed_file):
    models = experiment.build().sized
    said = update(speed_file, models, folder_of(experiment))
    gone = folder_of(experiment)("attndistill", 0)
    assert said == f"note: no speeds beside the page: {gone} is not here"
    assert not speed_file.exists()
    assert experiment.page


def test_without_the_sizes_of_both_there_is_nobody_to_measure(experiment, speed_file):
    (experiment.outputs / "exhibits/teacher/exhibits.json").unlink()
    built = experiment.build()
    assert not built.sized
    assert 'id="pace"' not in experiment.page
    said = update(speed_file, built.sized, folder_of(experiment))
    assert said == "note: no speeds beside the page: the sizes of the teacher and of a student are not known"


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ((1, "", "Traceback\nMemoryError: much\x1b[31m\n"), "page: MemoryError: much\\x1b[31m"),
        ((-9, "", ""), "measuring ended with -9"),
        ((0, "", ""), "measuring told no speeds: Invalid JSON"),
        ((0, json.dumps({"place": "here", "models": []}), ""), "measuring told 0 speeds of 2 models"),
        (
            (
                0,
                json.dumps({"place": "here", "models": [{"parameters": 1, "flops": 1, "images_a_second": 1.0}] * 2}),
                "",
            ),
            "weights/attndistill/seed-0 is of another size than the page's attndistill",
        ),
    ],
)
def test_a_measurement_that_fails_costs_one_line_and_leaves_no_file(experiment, speed_file, monkeypatch, told, problem):
    for name in ("teacher", "attndistill"):
        write_json(folder_of(experiment)(name, 0) / "model.json", {"image_size": len(name), "vit": {}})
    monkeypatch.setattr(speeds.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, *told))
    said = update(speed_file, experiment.build().sized, folder_of(experiment))
    assert said.startswith("note: no speeds beside the page: ")
    assert problem in said
    assert "\n" not in said
    assert not speed_file.exists()


def test_the_links_to_weights_are_the_same_where_the_weights_are_not(experiment):
    write_json(
        experiment.results / "training/attndistill.json",
        {"name": "attndistill", "kind": "distill", "unit": "epoch", "curves": {}, "summary": {}},
    )
    experiment.build()
    without = experiment.page
    assert '<a href="../weights/attndistill">AttnDistill</a>' in without
    (experiment.outputs / "weights/attndistill").mkdir(parents=True)
    experiment.build()
    assert experiment.page == without

"""The tables of fine-tuning, few labels and transfer: there where something was measured, with gaps and protocols."""

import csv
import json
from collections.abc import Callable

import numpy as np
import pytest
from written_experiment import LABELS, SEEDS, measured

from attndistill.report.evaluated import TITLES

TUNED = {"teacher": 97.0, "scratch": 92.0, "projector_alignment": 94.0, "attndistill": 95.5}
RATES, EPOCHS = (0.3, 1.0, 3.0), (10, 20)
OTHER = {"class_list_sha256": "12" * 32, "data_digest": "34" * 32}


def tuning(model: str, suffix: str) -> dict:
    """Fine-tuning at three rates, judged twice; 3.0 is chosen for the first seed, 1.0 for the others."""
    seeds = SEEDS[:1] if model == "teacher" else SEEDS
    protocol = f"finetune/beit-ld-v1, 20 epochs, 3 rates{suffix}"

    def figure(shift: float) -> dict:
        return measured(protocol, [TUNED[model] + shift + 0.1 * seed for seed in seeds], seeds)

    sweep = {
        f"rate {rate:g}, epoch {epoch}{of}": figure(-rate / 10 - 1 / epoch - (5 if of else 0))
        for rate in RATES
        for epoch in EPOCHS
        for of in ("", ", validation")
    }
    chosen = {"rate": [3.0, *[1.0] * (len(seeds) - 1)], "epoch": [20] * len(seeds)}
    return {"top1": figure(0), "top5": figure(1), "last_top1": figure(-0.5), "selected": chosen, "sweep": sweep}


@pytest.fixture
def tuned(experiment) -> Callable[..., None]:
    """Write fine-tuning beside the other probes of every model: of the own data, or of a further set."""

    def write(data: str = "", suffix: str = "", digests: dict | None = None, without: str = "") -> None:
        for model in LABELS:
            path = experiment.results / "probes" / f"{model}.json"
            found = json.loads(path.read_text()) | (digests or {})
            found["probes"] = {name: one for name, one in found["probes"].items() if name == "knn"}
            for one in found["probes"].values():
                for figure in ("top1", "top5"):
                    one[figure]["protocol"] += suffix
            if model != without:
                found["probes"]["finetune"] = tuning(model, suffix)
            path.with_name(f"{model}@{data}.json" if data else path.name).write_text(json.dumps(found))

    return write


def lines_of(experiment, name: str) -> dict[str, dict[str, str]]:
    return {line["model"]: line for line in csv.DictReader((experiment.destination / f"{name}.csv").open())}


def test_there_is_no_table_and_no_picture_of_what_nobody_measured(experiment):
    experiment.build()
    assert not any((experiment.destination / f"{name}.csv").exists() for name in TITLES)
    assert not {path.name for path in (experiment.destination / "figures").iterdir()} & {"tuning.png", "rates.png"}
    assert not any(f'id="{name}"' in experiment.page for name in (*TITLES, "tuning", "rates"))


def test_k_nn_and_fine_tuning_stand_side_by_side_with_their_gaps_to_the_teacher(experiment, tuned):
    tuned()
    experiment.models = {"teacher": {"published": {"knn_top1": 78.3}}}
    experiment.build()
    lines = lines_of(experiment, "comparison")
    ours = lines["attndistill"]
    assert float(ours["finetune_top1_mean"]) == pytest.approx(95.7)
    assert float(ours["finetune_top1_gap"]) == pytest.approx(95.7 - 97.0)
    assert float(ours["finetune_top1_sd"]) == pytest.approx(np.std(0.1 * np.array(SEEDS), ddof=1))
    assert (ours["finetune_top1_n"], ours["finetune_top1_protocol"]) == (
        "5",
        "finetune/beit-ld-v1, 20 epochs, 3 rates",
    )
    assert float(ours["finetune_last_top1_gap"]) == pytest.approx(95.7 - 97.0)
    assert lines["teacher"]["finetune_top1_gap"] == ""
    assert (lines["teacher"]["knn_top1_published"], ours["knn_top1_published"]) == ("78.3", "")
    assert "finetune_top1_published" not in ours  # no figure was read: no column
    for name in ("comparison.tex", "comparison.md"):
        text = (experiment.destination / name).read_text()
        assert "95.7" in text
        assert "Fine-tuning, last epoch" in text
        assert "finetune/beit-ld-v1, 20 epochs, 3 rates" in text
    assert '<h2 id="comparison">k-NN, linear and fine-tuned</h2>' in experiment.page
    assert "Fine-tuning: rate = 3, the largest of 3 tried, was chosen for " in experiment.page
    for name in ("tuning", "rates"):
        assert (experiment.destination / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'id="{name}"' in experiment.page


@pytest.mark.parametrize(("name", "left", "few"), [("tuning", "rates", "EPOCHS"), ("rates", "tuning", "RATES")])
def test_one_epoch_or_one_rate_is_no_curve(experiment, tuned, monkeypatch, name, left, few):
    monkeypatch.setitem(globals(), few, globals()[few][-2:-1] if few == "RATES" else globals()[few][:1])
    tuned()
    experiment.build()
    assert not (experiment.destination / f"figures/{name}.png").exists()
    assert (experiment.destination / f"figures/{left}.png").exists()


def test_few_labels_and_other_images_have_a_table_each_and_say_which(experiment, tuned):
    tuned("one", ", 1 % of labels (seed 0)", without="scratch")
    tuned("ten", ", 10 % of labels (seed 0)")
    tuned("other", digests=OTHER)
    own = {"class_list_sha256": "ab" * 32, "data_digest": "cd" * 32}
    experiment.rows["attndistill"]["published"] = {"finetune_top1@one": 66.8}
    experiment.build(datasets={"one": own, "ten": own, "other": OTHER})
    few, transfer = lines_of(experiment, "few-labels"), lines_of(experiment, "transfer")
    assert float(few["attndistill"]["finetune_top1@ten_gap"]) == pytest.approx(95.7 - 97.0)
    assert few["scratch"]["finetune_top1@one_mean"] == ""
    assert few["attndistill"]["finetune_top1@one_published"] == "66.8"
    assert few["attndistill"]["knn_top1@one_protocol"].endswith(", 1 % of labels (seed 0)")
    assert set(transfer["attndistill"]) >= {"knn_top1@other_mean", "finetune_top1@other_mean", "data_digest"}
    assert transfer["attndistill"]["data_digest"] == OTHER["data_digest"]
    assert not any("@one" in name or "@ten" in name for name in transfer["attndistill"])
    assert not (experiment.destination / "comparison.csv").exists()  # k-NN alone is in the table
    for heading in ("one, 1 % of labels (seed 0)", "ten, 10 % of labels (seed 0)"):
        assert heading in experiment.page
        assert heading in (experiment.destination / "few-labels.md").read_text()


def test_a_curve_is_of_the_rate_that_was_chosen_for_each_seed():
    from attndistill.report.evaluated import _over_epochs, _over_rates
    from attndistill.results import Found

    found = Found.model_validate_json(json.dumps(tuning("attndistill", "")))
    places, values = _over_epochs(found)
    assert places.tolist() == list(EPOCHS)
    assert values[0, 1] == pytest.approx(95.5 - 0.3 - 0.05, abs=1e-4)  # seed 0: rate 3
    assert values[1, 1] == pytest.approx(95.6 - 0.1 - 0.05, abs=1e-4)
    (rates, ends) = _over_rates(found)[""]
    assert rates.tolist() == list(RATES)
    assert ends[0].tolist() == pytest.approx([95.5 - rate / 10 - 0.05 for rate in RATES], abs=1e-4)


def test_a_published_figure_of_no_evaluation_is_refused(experiment):
    experiment.models = {"teacher": {"published": {"segmentation": 50.0}}}
    with pytest.raises(ValueError, match="'segmentation'; allowed: knn_top1, "):
        experiment.build()

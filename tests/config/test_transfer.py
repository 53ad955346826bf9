"""Further data sets: transfer sets by name, probes of their own, the experiment's own images with few labels."""

import shutil
from pathlib import Path

import pytest
import yaml

from attndistill.cli import main
from attndistill.config.transfer import TRANSFER
from attndistill.drivers import dvc_file
from attndistill.experiments import Experiment, open_experiment
from attndistill.pipeline import check_item
from attndistill.stages import STAGES, Item

ROOT = Path(__file__).parents[2]
DATASETS = """
datasets:
  cars: {preset: cars, data: {set: {root: data/cars}}, probe: {finetune: {evaluate_every: 50}}}
  inat18: {preset: inat18, data: {set: {root: data/inat18}}}
  few: {probe: {labels: {fraction: 0.1}}}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    shutil.copy(ROOT / "rows.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(DATASETS)
    return open_experiment(tmp_path)


@pytest.mark.parametrize(
    ("name", "rates", "epochs"),
    [
        ("cifar10", [3.0e-6, 7.5e-6], 1000),
        ("cifar100", [7.5e-6], 1000),
        ("flowers102", [7.5e-6, 7.5e-5], 1000),
        ("cars", [7.5e-5, 1.5e-4], 1000),
        ("inat18", [7.5e-6, 1.5e-5, 3.0e-5, 5.0e-5], 360),
        ("inat19", [7.5e-6, 2.5e-5, 3.0e-5, 7.5e-5], 360),
    ],
)
def test_a_preset_has_the_rates_that_are_published_for_512_images_and_the_supplementarys_batch(name, rates, epochs):
    config = open_experiment(ROOT).config(
        "", {"datasets": {name: {"preset": name, "data": {"set": {"root": "somewhere"}}}}}
    )
    tuned = config.probe_of(name).finetune
    at_512 = [2 * tuned.recipe.base_learning_rate * factor for factor in tuned.rates]
    assert at_512 == pytest.approx(rates)
    assert (tuned.recipe.epochs, tuned.recipe.batch_size, tuned.protocol) == (epochs, 1024, "deit-v1")
    assert (tuned.erasing, tuned.drop_path, tuned.repeats) == (0.1, None, None)
    assert config.views_of(name).image_size == 224
    assert config.probe.finetune is None  # of the set alone
    assert set(TRANSFER) == {"cifar10", "cifar100", "flowers102", "cars", "inat18", "inat19"}


def test_what_is_given_beside_a_preset_wins_and_the_rest_is_the_experiments_own(experiment):
    config = experiment.config("", {})
    cars, few = config.probe_of("cars"), config.probe_of("few")
    assert (cars.finetune.evaluate_every, config.probe_of("inat18").finetune.evaluate_every) == (50, 10)
    assert config.data_of("cars").set.options()["root"] == "data/cars"
    assert few.labels.fraction == 0.1
    assert few.knn == config.probe.knn
    assert config.judging("few").probe == few


def test_images_of_the_experiments_own_are_prepared_once(experiment):
    config, prepare = experiment.config("", {}), STAGES["prepare"]
    assert experiment.layout.prepared("few") == experiment.layout.data
    assert experiment.layout.prepared("cars") != experiment.layout.data
    assert [item.data for item in experiment.items(prepare, config)] == ["", "cars", "inat18"]
    assert Item("teacher", "few") in experiment.items(STAGES["probe"], config)
    with pytest.raises(ValueError, match=r"^prepare: 'few' is the experiment's own images; allowed: without --data$"):
        check_item(experiment, prepare, Item("", "few"), {})


def test_dvc_watches_a_sets_probes_and_the_preset_that_it_comes_from(experiment):
    stages = yaml.safe_load(dvc_file(experiment))["stages"]
    watched = {
        name: str(stages[name]["params"]) for name in ("probe_teacher_few", "probe_teacher_cars", "prepare_cars")
    }
    assert "datasets.few.probe" in watched["probe_teacher_few"]
    assert "transfer" not in watched["probe_teacher_few"]
    for name in ("probe_teacher_cars", "prepare_cars"):
        assert "datasets.cars.preset" in watched[name]
        assert "'transfer'" in watched[name]
    assert "prepare_few" not in stages
    assert "outputs/data" in stages["probe_teacher_few"]["deps"]


def test_the_dry_run_of_a_transfer_set_counts_its_own_images(experiment, monkeypatch, capsys):
    monkeypatch.chdir(experiment.folder)
    main(["probe", "--model", "teacher", "--data", "cars", "--dry-run", "--experiment", "."])
    out = capsys.readouterr().out
    assert "8,144" in out or "16,185 images" in out
    assert "2 rates, judged 20 times each, " in out


@pytest.mark.parametrize(
    ("datasets", "problem"),
    [
        (
            "{x: {preset: cifar}}",
            r"datasets\.x\.preset: 'cifar'; allowed: cifar10, cifar100, flowers102, cars, inat18, ",
        ),
        ("{x: {preset: cars}}", r"datasets\.x\.data\.set\.root: missing"),
        ("{x: {probe: {knn: {k: 3}}}}", r"datasets\.x\.probe\.knn\.k: "),
        ("{x: {probe: {finetune: {rates: [1.0]}}}}", r"datasets\.x\.probe\.finetune\.recipe: "),
        ("{x: {probe: {projector_layer: 9}}}", r"datasets\.x\.probe\.projector_layer 9; allowed: 0 to "),
        ("{x: {views: {image_size: 30}}}", r"does not divide datasets\.x\.views\.image_size 30"),
        ("{x: {probe: 3}}", r"datasets\.x\.probe: 3; allowed: a mapping"),
    ],
)
def test_a_set_that_is_refused_is_named_in_one_line(tmp_path, capsys, datasets, problem):
    shutil.copy(ROOT / "rows.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(f"datasets: {datasets}\n")
    with pytest.raises(ValueError, match=problem) as error:
        open_experiment(tmp_path).config("", {})
    assert "\n" not in str(error.value)

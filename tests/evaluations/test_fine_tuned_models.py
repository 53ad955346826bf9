"""Fine-tuning judges models as the published recipes do; rate and epoch are chosen on validation, never on test."""

import numpy as np
import pytest
import torch
from killing import killed_after

from attndistill.core.artifacts import digest_of
from attndistill.data.store import ImageSet
from attndistill.evaluations import evaluations
from attndistill.library import array_images, evaluate
from attndistill.models.projector import Projector, Student
from attndistill.models.vit import build_vit

VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "sincos"}
CLASSES = 3
RECIPE = {
    "epochs": 4,
    "batch_size": 16,
    "base_learning_rate": 0.05,
    "warmup_epochs": 1,
    "precision": "fp32",
    "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.05},
}
OPTIONS = {"mixing_group": 8, "recipe": RECIPE}
ON_PART = ", validation"
QUIET = {"policy": "", "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "smallest_crop": 0.5, "repeats": 1}


def coloured(count: int, seed: int) -> ImageSet:
    draws = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = draws.integers(0, 120, (count, 16, 16, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return array_images(images, labels)


def judged(options: dict, model=None, train: ImageSet | None = None, work=None, **settings):
    quick = {"probe.knn": None, "probe.logistic": None, "runtime.device": "cpu", "probe.finetune": OPTIONS | options}
    given = {**quick, "runtime.checkpoint_seconds": 0.0, **settings}
    model = model or build_vit(16, 0, **VIT)
    found = evaluate(model, train or coloured(60, 0), coloured(30, 1), settings=given, work=work)
    return found["finetune"]


@pytest.mark.parametrize(("protocol", "rates"), [("deit-v1", [1.0]), ("beit-ld-v1", [1e-5, 1.0]), ("mae-v1", [1.0])])
def test_a_model_learns_the_classes_by_a_published_protocol(protocol, rates):
    found = judged({**QUIET, "protocol": protocol, "rates": rates})
    assert found.protocol.startswith(f"finetune/{protocol} (")
    assert found.protocol.endswith(f", 4 epochs, {len(rates)} rate" + "s" * (len(rates) > 1))
    assert found.top1 > 80  # three colours
    assert set(found.figures) == set(evaluations()["finetune"].figures)
    assert found.chosen["rate"] == 1.0
    curves = {f"rate {rate:g}, epoch {epoch}{on}" for rate in rates for epoch in range(1, 5) for on in ("", ON_PART)}
    averaged = {f"rate {rate:g}, epoch 4, averaged weights" for rate in rates if protocol == "deit-v1"}
    assert found.sweep.keys() == curves | averaged  # of the three protocols, DeiT's keeps an average
    assert found.sweep["rate 1, epoch 4"] == found.figures["last_top1"]
    best = max(found.sweep[f"rate {rate:g}, epoch {epoch}{ON_PART}"] for rate in rates for epoch in range(1, 5))
    assert found.sweep[f"rate 1, epoch {found.chosen['epoch']}{ON_PART}"] == best


def test_the_published_options_bear_the_protocols_name_alone():
    published = {"mixing_group": 64, "recipe": RECIPE | {"epochs": 2, "batch_size": 64}}
    found = judged(published, train=coloured(90, 0))
    assert found.protocol == "finetune/deit-v1, 2 epochs, 1 rate"


def test_the_epoch_is_chosen_on_validation_and_the_best_on_test_has_its_own_name():
    """Labels of validation decide; with `choose: test` no epoch has a better figure than the one that is reported."""
    on_test = judged({**QUIET, "choose": "test"})
    assert on_test.protocol.startswith("finetune/deit-best-on-test-v1 (")
    assert on_test.top1 >= on_test.figures["last_top1"]
    images = coloured(60, 0)
    once = judged({**QUIET, "evaluate_every": 3}, train=images)
    assert once.chosen["epoch"] in (3, 4)


def test_a_models_weights_are_the_same_after_it_was_judged():
    model = build_vit(16, 0, **VIT)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    judged(QUIET, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.pos_embed.requires_grad


def test_the_head_may_stand_on_the_first_layer_of_p():
    model = Student(build_vit(16, 0, **VIT), Projector(16, 24, 3, seed=1))
    kept = judged({**QUIET, "keep_projector_layer": 1}, model)
    assert ", head on P's layer 1 where there is one, " in kept.protocol
    plain = judged(QUIET, model)
    assert "P's layer" not in plain.protocol
    with pytest.raises(ValueError, match=r"^keep_projector_layer 3; this model's P allows 0 to 2$"):
        judged({**QUIET, "keep_projector_layer": 3}, model)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mixing_group": 12}, "takes 16 images at once, no multiple of probe.finetune.mixing_group 12; "),
        ({"mixing_group": 7}, "multiple of 2"),
        *(
            ({"policy": text}, "probe.finetune.policy: ")
            for text in ("nonsense", "rand", "rand-q7", "rand-mx", "augmix-m5")
        ),
        ({"protocol": "deit"}, "probe.finetune.protocol: 'deit'; allowed: 'deit-v1', 'beit-ld-v1' or 'mae-v1'"),
        (
            {"recipe": RECIPE | {"batch_size": 4096}, "mixing_group": 2},
            "batch size 4096 is larger than the 48 training",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_trains(options, problem):
    with pytest.raises(ValueError, match=problem) as error:
        judged(options)
    assert "\n" not in str(error.value)


def test_a_class_that_is_missing_in_train_is_refused_before_anything_trains():
    images = coloured(60, 0)
    images.labels = np.where(images.labels == 1, 3, images.labels)
    test = coloured(30, 1)
    test.labels = np.zeros_like(test.labels)
    settings = {"probe.knn": None, "probe.logistic": None, "probe.finetune": OPTIONS}
    with pytest.raises(ValueError, match=r"^1 of 4 classes have no training image, the first is number 1; allowed: "):
        evaluate(build_vit(16, 0, **VIT), images, test, settings=settings)


def test_a_rate_that_ends_above_its_peak_is_said_in_one_line(capsys):
    judged({**QUIET, "recipe": RECIPE | {"base_learning_rate": 1e-6}})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("finetune: ")]
    assert lines == ["finetune: the learning rate ends at 1e-05, above its peak 6.25e-08, as the recipe is published"]


def curves_of(found) -> str:
    return digest_of([found.figures, found.chosen, found.sweep])


@pytest.mark.parametrize("steps", [2, 7, 13])
def test_a_fine_tuning_killed_and_resumed_ends_with_the_same_curves_and_weights(tmp_path, steps):
    """Two rates, the full recipe; killed in the first or the second run."""
    options = {"rates": [0.5, 1.0]}
    whole = judged(options, work=tmp_path / "whole")
    assert killed_after(steps, judged, options, work=tmp_path / "killed")
    resumed = judged(options, work=tmp_path / "killed")
    assert curves_of(resumed) == curves_of(whole)
    for folder in (tmp_path / "whole").iterdir():
        ours, theirs = (
            torch.load(place / folder.name / "checkpoint.pt") for place in (tmp_path / "whole", tmp_path / "killed")
        )
        assert ours["sha256"] == theirs["sha256"]
        assert ours["state"]["step"] == 12
        assert "average.0" in ours["state"]["task"]  # DeiT's average of the weights too


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_no_figure_of_a_fine_tuning():
    assert curves_of(judged({})) == curves_of(judged({}, **{"runtime.workers": 2}))

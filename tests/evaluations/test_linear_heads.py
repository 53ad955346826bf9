"""Probes of many heads: each head learns as it would alone, one is chosen, and the run resumes exactly."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from timm.optim import Lars
from torch import nn

from attndistill.data.loading import Batch, view_batch
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.evaluations import stored_views
from attndistill.evaluations.heads import DINOV2_RATES, IBOT_RATES, _feature
from attndistill.evaluations.judged import places, protocol_of
from attndistill.library import array_images, configure, evaluate
from attndistill.models.readout import read_features, read_last_blocks
from attndistill.models.vit import build_vit
from attndistill.tasks.linear_heads import Feature, LinearHeads
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import Observers, Plan, fit
from attndistill.training.optimizers import lars, sgd

VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "sincos"}
CLASSES, RATES = 3, (0.1, 1.0, 5.0)
FEATURES = (Feature(1, False), Feature(1, True), Feature(2, False), Feature(2, True))
PLAN = Plan(
    steps=30, steps_per_epoch=10, micro_batches=1, peak_learning_rate=0.2, warmup_steps=5, checkpoint_seconds=0.0
)
RECIPE = {
    "epochs": 3,
    "batch_size": 16,
    "base_learning_rate": 1.0,
    "warmup_epochs": 0,
    "precision": "fp32",
    "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0},
}


def heads(features=FEATURES, rates=RATES) -> LinearHeads:
    return LinearHeads(build_vit(8, 0, **VIT), CLASSES, 4, features=features, rates=rates).double()


def batch(number: int) -> Batch:
    """Images whose colour is their class."""
    draws = np.random.default_rng(number)
    labels = torch.from_numpy(draws.integers(0, CLASSES, 16))
    images = torch.from_numpy(draws.normal(0, 0.3, (16, 3, 8, 8)))
    images[torch.arange(16), labels] += 2.0
    return Batch(images, labels, np.arange(16), number // PLAN.steps_per_epoch)


class KilledError(Exception):
    pass


def train(task: LinearHeads, directory: Path, optimizer=sgd, kill_at: int = -1, **options) -> None:
    def at_step(done: int) -> None:
        if done == kill_at:
            raise KilledError

    batches = lambda first: map(batch, range(first, PLAN.steps))  # noqa: E731
    observers, checkpoint = Observers(at_step=at_step), Checkpoint(directory, "this run")
    fit(task, optimizer(task, **options), batches, PLAN, checkpoint, Accelerator(cpu=True), observers)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(sgd, {}), (sgd, {"weight_decay": 0.01}), (lars, {}), (lars, {"weight_decay": 0.01})],
    ids=["sgd", "sgd-decayed", "lars", "lars-decayed"],
)
def test_every_head_ends_where_it_would_have_ended_alone(tmp_path, optimizer, options):
    """In float64; the reference is torch's SGD and timm's LARS on a plain linear layer, its rate the head's."""
    together = heads()
    train(together, tmp_path / "together", optimizer, **options)
    for number, feature in enumerate(FEATURES):
        for place, rate in enumerate(RATES):
            weight, bias = alone(feature, rate, optimizer, **options)
            torch.testing.assert_close(together.weights[number][place], weight, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(together.biases[number][place], bias, rtol=1e-10, atol=1e-12)


def alone(feature: Feature, rate: float, optimizer, weight_decay: float = 0.0) -> tuple[nn.Parameter, nn.Parameter]:
    single = heads([feature], [rate])
    vit, linear = single.backbone.eval(), nn.Linear(single.weights[0].shape[-1], CLASSES).double()
    with torch.no_grad():
        linear.weight.copy_(single.weights[0][0])
        linear.bias.zero_()
    groups = [{"params": [linear.weight], "weight_decay": weight_decay}, {"params": [linear.bias], "weight_decay": 0.0}]
    if optimizer is sgd:
        reference = torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    else:
        groups[0]["always_adapt"], groups[1]["always_adapt"] = True, False
        reference = Lars(groups, lr=0.0, momentum=0.9, trust_coeff=0.001)
    for step in range(PLAN.steps):
        for group in reference.param_groups:
            group["lr"] = PLAN.learning_rate(step) * rate
        given = batch(step)
        with torch.no_grad():
            tokens = read_last_blocks(vit, given.images, feature.blocks, patch_mean=feature.patch_mean)
        reference.zero_grad()
        nn.functional.cross_entropy(linear(tokens.flatten(1)), given.labels).backward()
        reference.step()
    return linear.weight, linear.bias


def test_many_heads_killed_and_resumed_end_with_the_same_bits(tmp_path):
    whole, resumed = heads(), heads()
    train(whole, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(heads(), tmp_path / "killed", kill_at=13)
    train(resumed, tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_last_blocks_are_read_as_timm_gives_them():
    vit, images = build_vit(8, 0, **VIT).double().eval(), batch(0).images
    taken = vit.get_intermediate_layers(images, n=2, norm=True, return_prefix_tokens=True)
    expected = torch.stack([prefix[:, 0] for _, prefix in taken] + [taken[-1][0].mean(dim=1)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(read_last_blocks(vit, images, 2, patch_mean=True), expected)
        without = read_last_blocks(vit, images, 2, patch_mean=False)
        torch.testing.assert_close(without, expected[:, :2])
        torch.testing.assert_close(without[:, -1], read_features(vit, images).cls_token)
    with pytest.raises(ValueError, match="the last 4 blocks are asked for; this backbone has 3"):
        read_last_blocks(vit, images, 4, patch_mean=False)


def test_a_place_counts_the_classes_before_the_true_one_and_ties_go_to_the_lower_number():
    logits = torch.tensor([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [0.0, 5.0, 5.0]])
    assert places(logits, torch.tensor([0, 1, 2])).tolist() == [2, 1, 1]


def test_the_published_rates_are_45_of_ibot_and_13_of_dinov2():
    assert len(IBOT_RATES) == 45
    assert (IBOT_RATES[0], IBOT_RATES[8], IBOT_RATES[-1]) == (1e-4, 9e-4, 9.0)
    assert (len(DINOV2_RATES), DINOV2_RATES[0], DINOV2_RATES[-1]) == (13, 1e-5, 0.1)


def test_a_protocol_names_the_options_that_are_not_the_published_ones():
    assert protocol_of("linear_ibot", "linear/ibot-v1", {"rates": None, "smallest_crop": 0.08}) == "linear/ibot-v1"
    named = protocol_of("linear_ibot", "linear/ibot-v1", {"rates": [1.0, 2.0], "smallest_crop": 0.5})
    assert named.startswith("linear/ibot-v1 (rates 2:")
    assert named.endswith(", smallest_crop 0.5)")
    assert named != protocol_of("linear_ibot", "linear/ibot-v1", {"rates": [1.0, 3.0], "smallest_crop": 0.5})


def coloured(count: int, seed: int) -> ImageSet:
    draws = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = draws.integers(0, 120, (count, 16, 16, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return array_images(images, labels)


def judged(settings: dict, train_images: ImageSet | None = None, test_images: ImageSet | None = None) -> dict:
    quick = {"probe.knn": None, "probe.logistic": None, "runtime.device": "cpu"}
    images, test = train_images or coloured(60, 0), test_images or coloured(30, 1)
    return evaluate(build_vit(16, 0, **VIT), images, test, settings={**quick, **settings})


@pytest.mark.parametrize(
    ("name", "options", "protocol", "heads"),
    [
        ("linear_dino", {"blocks": 2}, "linear/dino-v1 on CLS of the last 2 blocks, sgd, 3 epochs", 0),
        (
            "linear_ibot",
            {"blocks": 1, "patch_mean": True},
            "linear/ibot-v1 on CLS of the last block and patch mean, sgd, 3 epochs",
            45,
        ),
        ("linear_dinov2", {"blocks": [1, 3]}, "linear/dinov2-v1 (blocks 2:", 52),
        ("linear_dinov2", {"blocks": [1, 3], "choose": "test"}, "linear/dinov2-best-on-test-v1 (blocks 2:", 52),
    ],
)
def test_a_published_probe_is_judged_by_its_name(name, options, protocol, heads):
    found = judged({f"probe.{name}": {**options, "recipe": RECIPE}})[name]
    assert found.protocol.startswith(protocol)
    assert found.top1 > 80  # three colours
    assert found.top5 == 100
    assert len(found.sweep) == heads
    assert found.chosen.keys() == ({"rate", "blocks", "patch_mean"} if heads else set())
    if "best-on-test" in protocol:
        assert found.top1 == max(found.sweep.values())


def test_two_probes_that_train_do_not_meet_in_one_checkpoint():
    one = {"probe.linear_ibot": {"blocks": 1, "rates": [1.0], "recipe": RECIPE}}
    other = {"probe.linear_dino": {"blocks": 1, "recipe": RECIPE}}
    both = judged({**one, **other})
    assert both["linear_ibot"].top1 == judged(one)["linear_ibot"].top1
    assert both["linear_dino"].top1 == judged(other)["linear_dino"].top1


def test_heads_replay_stored_views_which_probes_of_a_model_share(tmp_path, monkeypatch):
    """V views of 60 images, read once for two probes: what epoch e learns from are the tokens of view e mod V."""
    read, readings = stored_views.read_last_blocks, []
    monkeypatch.setattr(
        stored_views,
        "read_last_blocks",
        lambda vit, images, *a, **k: readings.append(len(images)) or read(vit, images, *a, **k),
    )
    both = {f"probe.{name}": {"blocks": 2, "views": 2, "recipe": RECIPE} for name in ("linear_dino", "linear_ibot")}
    quick = {"probe.knn": None, "probe.logistic": None, "runtime.device": "cpu", "runtime.evaluation_batch_size": 32}
    vit, images = build_vit(16, 0, **VIT), coloured(60, 0)
    found = evaluate(vit, images, coloured(30, 1), settings={**quick, **both}, work=tmp_path)
    assert sum(readings) == 2 * 60
    assert found["linear_dino"].protocol.startswith("linear/dino-v1 (views 2) on CLS of the last 2 blocks, ")
    assert found["linear_dino"].top1 > 80
    (first,) = tmp_path.rglob("view-0.npy")
    again = evaluate(vit, images, coloured(30, 1), settings={**quick, **both}, work=tmp_path)
    assert sum(readings) == 2 * 60  # resumed: nothing is read again
    assert {name: one.figures for name, one in again.items()} == {name: one.figures for name, one in found.items()}
    recipe = replace(ViewRecipe.of(configure({"views.image_size": 16}).views), scale=(0.08, 1.0))
    views = view_batch(images, recipe, 0, np.arange(60)).images
    with torch.no_grad():
        wanted = read_last_blocks(vit.eval(), views, 3, patch_mean=True).numpy()
    np.testing.assert_allclose(np.load(first), wanted, rtol=1e-5, atol=1e-5)


def test_the_feature_of_a_protocol_follows_the_models_size():
    assert _feature(SimpleNamespace(backbone=SimpleNamespace(embed_dim=384)), None, None) == ([Feature(4, False)], True)
    assert _feature(SimpleNamespace(backbone=SimpleNamespace(embed_dim=768)), None, None) == ([Feature(1, True)], True)
    assert _feature(SimpleNamespace(backbone=SimpleNamespace(embed_dim=768)), 2, None) == ([Feature(2, False)], False)


def test_more_blocks_than_there_are_are_refused_before_anything_trains():
    with pytest.raises(ValueError, match=r"^probe.linear_dino.blocks 4; this model has 3$"):
        judged({"probe.linear_dino": {"recipe": RECIPE}})


def test_a_class_without_a_training_image_is_refused_before_anything_trains():
    probe, images = {"probe.linear_dino": {"blocks": 1, "recipe": RECIPE}}, coloured(60, 0)
    images.labels = np.where(images.labels == 1, 3, images.labels)
    with pytest.raises(ValueError, match="test has images of class 1, train has none"):
        judged(probe, images)
    test = coloured(30, 1)
    test.labels = np.zeros_like(test.labels)
    with pytest.raises(ValueError, match=r"^1 of 4 classes have no training image, the first is number 1; allowed: "):
        judged(probe, images, test)

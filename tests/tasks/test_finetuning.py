"""Fine-tuning's parts against float64 references written out; nothing depends on how a batch is cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV2
from torch import nn

from attndistill.core.generators import borrowed, numbers
from attndistill.core.randomness import uniforms
from attndistill.data.loading import Batch
from attndistill.models.vit import build_vit
from attndistill.tasks.finetuning import FineTuning, Regularisation
from attndistill.training.loop import Plan
from attndistill.training.optimizers import PER_STEP, RateCurve, adamw, learning_rate

VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "learnable"}
CLASSES = 5
FULL = Regularisation(drop_path=0.4, mixup=0.8, cutmix=1.0, smoothing=0.1, group=4)
PLAIN = Regularisation(drop_path=0.0, mixup=0.0, cutmix=0.0, smoothing=0.1, group=4)


def tuning(regularisation: Regularisation = FULL, **options) -> FineTuning:
    return FineTuning(build_vit(8, 0, **VIT), CLASSES, 7, regularisation, **options).double()


def batch(epoch: int = 0, size: int = 16) -> Batch:
    draws = np.random.default_rng(epoch)
    images = torch.from_numpy(draws.normal(size=(size, 3, 8, 8)))
    return Batch(images, torch.from_numpy(draws.integers(0, CLASSES, size)), np.arange(100, 100 + size), epoch)


def part(whole: Batch, chosen: slice) -> Batch:
    return Batch(whole.images[chosen], whole.labels[chosen], whole.indices[chosen], whole.epoch)


@pytest.mark.parametrize("decay", [1.0, 0.65])
def test_what_lies_k_layers_below_the_head_moves_at_decay_to_the_k_of_the_rate(decay):
    """One AdamW step in float64: w (1 - lr s wd) - lr s g / (|g| + eps), s the layer's scale; vectors do not decay."""
    task, rate, weight_decay = tuning(PLAIN, layer_decay=decay), 1e-3, 0.05
    optimizer = adamw(task, weight_decay=weight_decay)
    before = {name: value.detach().clone() for name, value in task.named_parameters()}
    task(batch())["loss"].backward()
    gradients = {name: value.grad.clone() for name, value in task.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    optimizer.step()
    depth = VIT["depth"]
    for name, value in task.named_parameters():
        layer = depth + 1  # the head and the norm below it
        if name.startswith("backbone.blocks."):
            layer = int(name.split(".")[2]) + 1
        elif name.startswith(("backbone.cls_token", "backbone.pos_embed", "backbone.patch_embed")):
            layer = 0
        scaled = rate * decay ** (depth + 1 - layer)
        decayed = value.ndim > 1 and not name.endswith(("cls_token", "pos_embed"))
        wanted = before[name] * (1 - scaled * weight_decay * decayed)
        wanted = wanted - scaled * gradients[name] / (gradients[name].abs() + 1e-8)
        torch.testing.assert_close(value.detach(), wanted, rtol=1e-9, atol=1e-12, msg=name)
    held = [id(value) for group in optimizer.param_groups for value in group["params"]]
    assert len(held) == len(set(held)) == len(before)


def test_a_mixed_group_and_its_loss_are_the_papers():
    """x = l x_i + (1 - l) x_j, or a box of x_j in x_i with l its share left; y likewise; loss -sum y log p."""
    task, given = tuning(), batch()
    images, targets = task.mixed(given.images, given.labels, given)
    boxes = 0
    for start in range(0, 16, FULL.group):
        places = np.arange(start, start + FULL.group)
        lam, box = drawn(numbers(7, "mix", 0, given.indices[places[:1]])[0])
        boxes += box is not None
        for place, partner in zip(places, places[::-1], strict=True):
            image, other = given.images[place], given.images[partner]
            if box is None:
                wanted = lam * image + (1 - lam) * other
            else:
                wanted = image.clone()
                wanted[:, box[0], box[1]] = other[:, box[0], box[1]]
            torch.testing.assert_close(images[place], wanted)
            label = lam * smooth(given.labels[place]) + (1 - lam) * smooth(given.labels[partner])
            torch.testing.assert_close(targets[place].double(), label, rtol=1e-6, atol=1e-7)
    assert 0 < boxes < 4  # both kinds were seen
    logits = torch.randn(16, CLASSES, dtype=torch.float64)
    wanted = -(targets * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    torch.testing.assert_close(task.loss(logits, targets), wanted, rtol=1e-12, atol=1e-12)


def smooth(label: torch.Tensor) -> torch.Tensor:
    return 0.9 * nn.functional.one_hot(label, CLASSES).double() + 0.1 / CLASSES


def drawn(number: int):
    """lambda, and the rows and columns of a CutMix box or None, drawn as timm draws them; written out plainly."""
    with borrowed() as seed:
        seed(number)
        np.random.rand()  # whether to mix: always
        cut = np.random.rand() < 0.5
        lam = np.random.beta(1.0, 1.0) if cut else np.random.beta(0.8, 0.8)
        if not cut:
            return lam, None
        side = int(8 * np.sqrt(1 - lam))
        middle = [np.random.randint(0, 8) for _ in range(2)]
    rows, columns = (slice(max(0, at - side // 2), min(8, at + (side + 1) // 2)) for at in middle)
    return 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / 64, (rows, columns)


@pytest.mark.parametrize("cuts", [2, 4])
def test_micro_batches_and_ranks_change_neither_mixes_nor_paths_nor_gradients(cuts):
    whole, parts, given = tuning(), tuning(), batch(epoch=3)
    whole(given)["loss"].backward()
    size = 16 // cuts
    for start in range(0, 16, size):
        (parts(part(given, slice(start, start + size)))["loss"] / cuts).backward()
    for (name, ours), theirs in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_other_epochs_and_seeds_mix_otherwise_and_the_same_ones_alike():
    task, first, later = tuning(), batch(), replace(batch(), epoch=1)
    other = FineTuning(build_vit(8, 0, **VIT), CLASSES, 8, FULL).double()
    mixed = [
        one.mixed(given.images, given.labels, given)[0] for one, given in ((task, first), (task, later), (other, first))
    ]
    assert torch.equal(mixed[0], tuning().mixed(first.images, first.labels, first)[0])
    assert not torch.equal(mixed[0], mixed[1])
    assert not torch.equal(mixed[0], mixed[2])


def test_paths_are_dropped_for_the_images_that_the_counter_says_and_scaled_up_elsewhere():
    task, given = tuning(replace(PLAIN, drop_path=0.4)), batch()
    task(given)
    kept = uniforms(7, "paths", 0, given.indices, 2 * VIT["depth"])
    rates = np.repeat(np.linspace(0, 0.4, VIT["depth"]), 2)
    branch = torch.ones(16, 2, 3, dtype=torch.float64)
    for number, (path, rate) in enumerate(zip(task.paths, rates, strict=True)):
        wanted = torch.from_numpy((kept[:, number] >= rate) / (1 - rate))
        torch.testing.assert_close(path(branch), branch * wanted[:, None, None])
    task.eval()
    assert torch.equal(task.paths[-1](branch), branch)


def test_without_regularisation_the_head_judges_what_timms_model_says_of_the_class_token_or_the_patches():
    vit, given = build_vit(8, 0, **VIT).double().eval(), batch()
    tokens = vit.forward_features(given.images)
    plain, pooled = tuning(PLAIN).eval(), tuning(PLAIN, pooled=True).eval()
    torch.testing.assert_close(plain.logits(given.images), plain.head(tokens[:, 0]))
    vit.norm = nn.Identity()
    mean = vit.forward_features(given.images)[:, 1:].mean(dim=1)
    torch.testing.assert_close(pooled.logits(given.images), pooled.head(pooled.norm(mean)))
    assert all(value.grad is not None for value in trained(pooled, given).parameters())


def trained(task: FineTuning, given: Batch) -> FineTuning:
    task.train()(given)["loss"].backward()
    return task


def test_the_process_generators_are_left_as_they_were():
    torch.manual_seed(3)
    np.random.seed(3)
    wanted = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    tuning()(batch())
    assert (torch.rand(1), np.random.rand()) == wanted


def test_deits_curve_is_timms_cosine_scheduler():
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-4)
    theirs = CosineLRScheduler(optimizer, t_initial=30, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    curve = RateCurve(start=1e-6, lowest=1e-5, per_epoch=True, whole=True)
    plan = Plan(300, 10, 1, 5e-4, 50, 0.0, curve=curve)
    for epoch in range(30):
        theirs.step(epoch)
        rates = [plan.learning_rate(step) for step in range(10 * epoch, 10 * epoch + 10)]
        assert rates == pytest.approx([optimizer.param_groups[0]["lr"]] * 10, rel=1e-12)


def test_maes_curve_ends_at_its_lowest_rate_and_the_houses_at_nothing():
    for curve, lowest in ((RateCurve(lowest=1e-6), 1e-6), (PER_STEP, 0.0)):
        rates = [
            learning_rate(step, peak=1e-3, steps=100, warmup_steps=10, curve=curve) for step in (0, 5, 10, 55, 100)
        ]
        assert rates == pytest.approx([0, 5e-4, 1e-3, (1e-3 + lowest) / 2, lowest], rel=1e-12, abs=1e-18)


def test_the_average_of_the_weights_is_timm_s_of_the_same_updates_and_leaves_the_model_as_it_is():
    task, alone = tuning(PLAIN, ema_decay=0.9), tuning(PLAIN)
    reference, optimizers = ModelEmaV2(alone, decay=0.9), [adamw(one) for one in (task, alone)]
    for step in range(4):
        for one, optimizer in zip((task, alone), optimizers, strict=True):
            optimizer.zero_grad()
            one(batch(step))["loss"].backward()
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            optimizer.step()
            one.after_update()
        reference.update(alone)
    assert alone.average is None
    plain = {name: value.detach().clone() for name, value in task.named_parameters()}
    with task.average.in_place_of(task):
        for (name, ours), theirs in zip(task.named_parameters(), reference.module.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15, msg=name)
        assert not torch.equal(task.head.weight, plain["head.weight"])
    for (name, ours), theirs in zip(task.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, plain[name])
        assert torch.equal(ours, theirs)

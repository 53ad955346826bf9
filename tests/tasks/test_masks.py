"""Masks of masked autoencoding: a pure function of (seed, epoch, index), uniform over patches."""

import numpy as np
import pytest
import torch

from attndistill.data.loading import Batch
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.vit import build_vit
from attndistill.tasks.masked_autoencoding import MaskedAutoencoding

VIT = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "sincos"}


def task(mask_ratio: float = 0.75, seed: int = 3) -> MaskedAutoencoding:
    model = MaskedAutoencoder(build_vit(16, 0, **VIT), 0, embed_dim=8, depth=1, num_heads=2, normalize_pixels=True)
    return MaskedAutoencoding(model, seed, mask_ratio=mask_ratio)


def batch(indices: np.ndarray, epoch: int = 0) -> Batch:
    images = torch.stack([torch.full((3, 16, 16), float(index)) for index in indices])
    return Batch(images, torch.zeros(len(indices), dtype=torch.int64), indices, epoch)


@pytest.fixture
def order_of(monkeypatch):
    """(task, batch) -> the patch order and the number of visible patches that reach the model."""

    def run(task: MaskedAutoencoding, batch: Batch) -> tuple[torch.Tensor, int]:
        seen = []
        monkeypatch.setattr(
            task.model, "forward", lambda images, order, visible: seen.append((order, visible)) or images.sum()
        )
        task(batch)
        return seen[0]

    return run


def test_a_mask_depends_on_its_image_and_epoch_and_not_on_its_company(order_of):
    together, visible = order_of(task(), batch(np.array([4, 7, 9])))
    alone, _ = order_of(task(), batch(np.array([7])))
    later, _ = order_of(task(), batch(np.array([7]), epoch=1))
    other, _ = order_of(task(seed=4), batch(np.array([7])))
    assert visible == 4
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(alone, later)
    assert not torch.equal(alone, other)


def test_every_patch_is_hidden_equally_often(order_of):
    order, visible = order_of(task(), batch(np.arange(4000)))
    assert torch.equal(order.sort(dim=1).values, torch.arange(16).expand(4000, 16))
    shares = torch.bincount(order[:, :visible].flatten(), minlength=16) / 4000
    assert (shares - 0.25).abs().max() < 0.03


def test_the_loss_is_the_same_bit_for_bit_whenever_it_is_asked_for():
    model, views = task(), batch(np.array([1, 2]))
    first = model(views)["loss"]
    torch.randn(10)  # a carried random state would have moved on
    assert torch.equal(model(views)["loss"], first)


def test_hidden_pixels_are_not_seen_by_the_encoder():
    """Changing a hidden patch changes what is wanted, never what is encoded."""
    model = task().model
    order, images = torch.randperm(16)[None], torch.randn(1, 3, 16, 16)
    hidden = int(order[0, -1])
    row, column = 4 * (hidden // 4), 4 * (hidden % 4)
    changed = images.clone()
    changed[..., row : row + 4, column : column + 4] += 5
    encoded = [model._encode(each, order[:, :4]) for each in (images, changed)]
    assert torch.equal(*encoded)


@pytest.mark.parametrize("ratio", [0.99, 0.01])
def test_a_ratio_that_shows_all_or_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"mask ratio {ratio} leaves (0|16) of 16 patches visible"):
        task(ratio)

"""Masked autoencoding of one encoder, from images and options: the embedded teacher, and the from-scratch baseline."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attndistill.core.randomness import derived_seed
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.vit import build_vit
from attndistill.runs import Execution, Look, Trained, train
from attndistill.tasks.masked_autoencoding import MaskedAutoencoding
from attndistill.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from attndistill.config import Pretrain


def pretrain_encoder(
    images: ImageSet,
    views: ViewRecipe,
    sizes: Mapping[str, Any],
    options: "Pretrain",
    execution: Execution,
    checkpoint: Checkpoint,
    *,
    seed: int,
    look: Look | None = None,
) -> Trained:
    """Train the encoder of one seed without labels.

    Args:
        images: training images.
        views: their views.
        sizes: of the encoder, keyword arguments of `build_vit`.
        options: mask, decoder and recipe, the section `pretrain`.
        execution: device, processes, progress.
        checkpoint: of this very run.
        seed: of weights, masks and order.
        look: what else is to be known of an epoch; see `Look`.
    """
    encoder = build_vit(views.image_size, seed, **sizes)
    model = MaskedAutoencoder(encoder, seed, **options.decoder.plain())
    task = MaskedAutoencoding(model, derived_seed(seed, "mask"), mask_ratio=options.mask_ratio)
    history = train(
        task,
        options.recipe,
        images,
        views,
        checkpoint,
        execution,
        seed=seed,
        evaluate=lambda epoch: look(seed, encoder, epoch) if look else None,
    )
    return Trained(encoder, history, checkpoint)

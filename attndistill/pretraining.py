"""Masked autoencoding of one encoder, from images and options: the embedded teacher, and the from-scratch baseline."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attndistill.core.randomness import derived_seed
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.vit import build_vit
from attndistill.runs import Execution, Trained, train
from attndistill.tasks.masked_autoencoding import MaskedAutoencoding
from attndistill.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from attndistill.config import Pretrain
    from attndistill.evaluations.classifiers import ProbeData

# the curve's logistic probe; the curve is shown, nothing is chosen by it
PROBE = {"strengths": [1.0], "tolerance": 1e-4}


def pretrain_encoder(
    images: ImageSet,
    views: ViewRecipe,
    sizes: Mapping[str, Any],
    options: "Pretrain",
    execution: Execution,
    checkpoint: Checkpoint,
    *,
    seed: int,
    evaluate: Any = None,
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
        evaluate: encoder -> its features (`ProbeData`), for the probe curve (Fig. 7); None draws none.
    """
    encoder = build_vit(views.image_size, seed, **sizes)
    model = MaskedAutoencoder(encoder, seed, **options.decoder.plain())
    task = MaskedAutoencoding(model, derived_seed(seed, "mask"), mask_ratio=options.mask_ratio)
    every, epochs = options.probe_every, options.recipe.epochs

    def curve(epoch: int) -> dict[str, float] | None:
        return probe_point(epoch, every, epochs, lambda: evaluate(encoder)) if evaluate else None

    history = train(task, options.recipe, images, views, checkpoint, execution, seed=seed, evaluate=curve)
    return Trained(encoder, history, checkpoint)


def probe_point(epoch: int, every: int, epochs: int, features: "Callable[[], ProbeData]") -> dict[str, float] | None:
    """Top-1 on test of a logistic probe, where the epoch is one of every so many or the last one; else None."""
    from attndistill.evaluations.classifiers import logistic

    if epoch % every and epoch != epochs:
        return None
    return {"probe_top1": logistic(features(), **PROBE).top1}

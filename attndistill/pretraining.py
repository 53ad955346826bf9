"""Masked autoencoding of one encoder, from images and options: the embedded teacher, and the from-scratch baseline."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attndistill.core.randomness import derived_seed
from attndistill.data.store import ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.vit import build_vit
from attndistill.runs import Evaluate, Execution, Trained, train
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
    curve = _probe_curve(options, lambda: evaluate(encoder)) if evaluate else lambda epoch: None
    history = train(task, options.recipe, images, views, checkpoint, execution, seed=seed, evaluate=curve)
    return Trained(encoder, history, checkpoint)


def _probe_curve(options: "Pretrain", features: Any) -> Evaluate:
    """Top-1 on test of a logistic probe, every so many epochs and at the end."""
    from attndistill.evaluations.classifiers import logistic

    def evaluate(epoch: int) -> dict[str, float] | None:
        if epoch % options.probe_every and epoch != options.recipe.epochs:
            return None
        data: ProbeData = features()
        return {"probe_top1": logistic(data, **PROBE).top1}

    return evaluate

"""Stage 2: masked autoencoding, for the teacher and, by the same code, for the from-scratch baseline."""

import csv
import io

from timm.models.vision_transformer import VisionTransformer

from attndistill.core.artifacts import write_text
from attndistill.core.randomness import derived_seed
from attndistill.data.store import ImageSet, read_manifest
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.vit import build_vit
from attndistill.stages.context import Context
from attndistill.stages.features import probe_data
from attndistill.stages.released import take_released_teacher
from attndistill.stages.runs import Evaluate, Trained, store, train, train_seeds
from attndistill.tasks.masked_autoencoding import MaskedAutoencoding
from attndistill.training.loop import History

# C and iterations of the curve's logistic probe; the curve is shown, nothing is chosen by it
PROBE_STRENGTH, PROBE_ITERATIONS = 1.0, 100


def pretrain(context: Context) -> None:
    """Train and store the encoder of every seed, its loss curves and its probe curve (Fig. 7).

    A teacher that comes from elsewhere (teacher.source) is taken as it is.
    """
    config = context.config
    if context.item == "teacher" and config.teacher.source is not None:
        if context.is_main:
            take_released_teacher(context)
        return
    section = "teacher" if context.item == "teacher" else "student"
    sizes = config.teacher.sizes() if context.item == "teacher" else config.student.plain()
    images, test = context.images("train"), context.images("test")
    inputs = {"data": read_manifest(context.layout.data)["digest"]}

    def run(context: Context, seed: int) -> Trained:
        encoder = build_vit(config.views.image_size, seed, **sizes)
        model = MaskedAutoencoder(encoder, seed, **config.pretrain.decoder.plain())
        task = MaskedAutoencoding(model, derived_seed(seed, "mask"), mask_ratio=config.pretrain.mask_ratio)
        checkpoint = context.checkpoint(seed, inputs, section, "views", "pretrain")
        evaluate = _probe_curve(context, encoder, images, test)
        history = train(task, config.pretrain.recipe, images, context, checkpoint, seed=seed, evaluate=evaluate)
        return Trained(encoder, history, checkpoint)

    trained = train_seeds(context, config.pretrain.recipe, images, run)
    if context.is_main:
        _write_probe_curve(context, {seed: result.history for seed, result in trained.items()})
        store(context, "pretrain", sizes, trained)


def _probe_curve(context: Context, encoder: VisionTransformer, images: ImageSet, test: ImageSet) -> Evaluate:
    """Top-1 on test of a logistic probe, every so many epochs and at the end."""
    from attndistill.evaluations.classifiers import logistic

    options = context.config.pretrain

    def evaluate(epoch: int) -> dict[str, float] | None:
        if epoch % options.probe_every and epoch != options.recipe.epochs:
            return None
        data = probe_data(context, encoder, images, test)
        return {"probe_top1": logistic(data, strengths=[PROBE_STRENGTH], max_iterations=PROBE_ITERATIONS).top1}

    return evaluate


def _write_probe_curve(context: Context, histories: dict[int, History]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "epoch", "top1"])
    for seed, history in histories.items():
        writer.writerows([seed, int(epoch), f"{value:.4f}"] for epoch, value in history["probe_top1"])
    write_text(context.layout.result("pretrain_probe", f"{context.item}.csv"), text.getvalue())

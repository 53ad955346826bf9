"""Stage 2: masked autoencoding, for the teacher and, by the same code, for the from-scratch baseline."""

import csv
import io

from timm.models.vision_transformer import VisionTransformer

from attndistill.core.artifacts import replacing_directory, write_text
from attndistill.core.randomness import derived_seed
from attndistill.data.store import ImageSet, read_manifest
from attndistill.models.mae import MaskedAutoencoder
from attndistill.models.storage import save_model
from attndistill.models.vit import build_vit
from attndistill.stages.context import Context
from attndistill.stages.features import probe_data
from attndistill.stages.runs import Evaluate, train, write_curves
from attndistill.tasks.masked_autoencoding import MaskedAutoencoding
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.loop import History

PROBE_STRENGTH = 1.0  # C of the curve's logistic probe; the curve is shown, nothing is chosen by it


def pretrain(context: Context) -> None:
    """Train and store the encoder of every seed, its loss curves and its probe curve (Fig. 7)."""
    options = context.config.pretrain
    sizes = context.config.teacher if context.item == "teacher" else context.config.student
    images, test = context.images("train"), context.images("test")
    section = "teacher" if context.item == "teacher" else "student"
    inputs = {"data": read_manifest(context.layout.data)["digest"]}
    histories: dict[int, History] = {}
    checkpoints = []
    with replacing_directory(context.layout.model(context.item)) as directory:
        for seed in context.seeds:
            encoder = build_vit(context.config.views.image_size, seed, **sizes.plain())
            model = MaskedAutoencoder(encoder, seed, **options.decoder.plain())
            task = MaskedAutoencoding(model, derived_seed(seed, "mask"), mask_ratio=options.mask_ratio)
            digest = context.run_digest(seed, inputs, section, "views", "pretrain")
            checkpoint = Checkpoint(context.layout.work(f"pretrain-{context.item}", digest), digest)
            checkpoints.append(checkpoint)
            with checkpoint.owned():
                histories[seed] = train(
                    task,
                    options.recipe,
                    images,
                    context,
                    seed=seed,
                    checkpoint=checkpoint,
                    evaluate=_probe_curve(context, encoder, images, test),
                )
            save_model(
                directory / f"seed-{seed}", encoder, image_size=context.config.views.image_size, vit=sizes.plain()
            )
    write_curves(context, "pretrain", histories)
    _write_probe_curve(context, histories)
    context.journal.artifact(context.layout.model(context.item), folder="model")
    for checkpoint in checkpoints:
        checkpoint.remove()


def _probe_curve(context: Context, encoder: VisionTransformer, images: ImageSet, test: ImageSet) -> Evaluate:
    """Top-1 on test of a logistic probe, every so many epochs and at the end."""
    from attndistill.probes.classifiers import logistic

    options = context.config.pretrain

    def evaluate(epoch: int) -> dict[str, float] | None:
        if epoch % options.probe_every and epoch != options.recipe.epochs:
            return None
        data = probe_data(context, encoder, images, test)
        return {"probe_top1": logistic(data, strengths=[PROBE_STRENGTH]).top1}

    return evaluate


def _write_probe_curve(context: Context, histories: dict[int, History]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "epoch", "top1"])
    for seed, history in histories.items():
        writer.writerows([seed, int(epoch), f"{value:.4f}"] for epoch, value in history["probe_top1"])
    write_text(context.layout.result("pretrain_probe", f"{context.item}.csv"), text.getvalue())

"""What a training stage stores: models, curves, and the probe curve of pre-training."""

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attndistill.core.artifacts import replacing_directory, write_json, write_text
from attndistill.models.storage import save_model
from attndistill.runs import Trained
from attndistill.training.loop import History

if TYPE_CHECKING:
    from attndistill.stages.context import Context


def store_models(context: "Context", kind: str, vit: dict[str, Any], trained: Mapping[int, Trained]) -> None:
    """Store models and curves of all seeds, then remove their resume checkpoints. For one process of a run."""
    name = context.item.name
    with replacing_directory(context.layout.model(name)) as directory:
        for seed, result in trained.items():
            image_size = context.config.views.image_size
            save_model(directory / f"seed-{seed}", result.model, image_size=image_size, vit=vit)
    _write_curves(context, kind, {seed: result.history for seed, result in trained.items()})
    context.journal.artifact(context.layout.model(name), folder="model")
    for result in trained.values():
        result.checkpoint.remove()


def _write_curves(context: "Context", kind: str, histories: Mapping[int, History]) -> None:
    """results/training/<item>.json and .csv: every curve of every seed, and its last values."""
    name = context.item.name
    last = {
        curve: sum(history[curve][-1][1] for history in histories.values()) / len(histories)
        for curve in next(iter(histories.values()))
    }
    value: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "unit": "epoch",
        "curves": {str(seed): history for seed, history in histories.items()},
        "summary": last,
    }
    write_json(context.layout.result("training", f"{name}.json"), value)
    lines = [
        [seed, int(epoch), curve, f"{point:.9g}"]
        for seed, history in histories.items()
        for curve, points in history.items()
        for epoch, point in points
    ]
    write_text(context.layout.result("training", f"{name}.csv"), _csv([["seed", "epoch", "curve", "value"], *lines]))


def write_probe_curve(context: "Context", histories: Mapping[int, History]) -> None:
    """results/pretrain_probe/<item>.csv."""
    lines = [
        [seed, int(epoch), f"{value:.4f}"]
        for seed, history in histories.items()
        for epoch, value in history["probe_top1"]
    ]
    path = context.layout.result("pretrain_probe", f"{context.item.name}.csv")
    write_text(path, _csv([["seed", "epoch", "top1"], *lines]))


def _csv(lines: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()

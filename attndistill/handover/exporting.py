"""Export: a finished model for programs that have no code of ours, each form held against this package's features."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from attndistill.config.schema import LICENCE, Export, ExportFormat
from attndistill.core.artifacts import check_empty, replacing_directory, write_text
from attndistill.core.words import shown
from attndistill.handover.card import Checked, model_card
from attndistill.handover.graphs import check_onnx, write_onnx, write_pt2
from attndistill.handover.models import Finished, open_finished
from attndistill.handover.speed import measure_speeds
from attndistill.library import configure, fitting
from attndistill.models.families import Backbone
from attndistill.models.projector import Student

FORMATS, _DEFAULT = get_args(ExportFormat), Export()


def export(
    model: str | Path | Student | Backbone,
    to: str | Path,
    *,
    formats: Sequence[str] = tuple(_DEFAULT.formats),
    settings: Mapping[str, Any] | None = None,
    licence: str = _DEFAULT.licence,
    experiment: str | Path = ".",
    head: str = "",
) -> Path:
    """Write a folder that timm opens (`timm.create_model("local-dir:...", pretrained=True)`), with a model card.

    Args:
        model: a stored model's folder, a checkpoint file, the name of a row of `experiment`, or a model in memory.
        to: the folder to make; it must not exist, or be empty.
        formats: "timm" is always written; "pt2" (torch.export) and "onnx" (the extra `attndistill[onnx]`) lie beside.
        settings: dotted keys of `views`, where the model comes from no experiment: mean, std, evaluation_crop.
        licence: of the weights, for the card: a student takes its teacher's along.
        experiment: the folder whose rows names are of.
        head: "logistic" or "finetune": a classifier, fitted by that protocol to the experiment's training images.

    Returns:
        The folder: config.json, model.safetensors, README.md, and model.pt2, model.onnx where asked for; attention.png
        with some test photos, where the attention stage has stored the model's maps.

    Raises:
        ValueError: a target that is not empty, an unknown format, licence or model, a model that timm cannot build by
            name, a form whose features or k-NN figure are not this package's, or a missing extra. Nothing is then
            written.
    """
    to = Path(to)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"format {shown(unknown[0])!r}; allowed: {', '.join(FORMATS)}")
    if not re.fullmatch(LICENCE, licence):
        allowed = "letters, digits, blanks and . + -, such as cc-by-nc-4.0"
        raise ValueError(f"licence {shown(licence, 100)!r}; allowed: {allowed}")
    check_empty(to)
    if "onnx" in formats:
        check_onnx()
    if isinstance(model, str | Path):
        finished = open_finished(str(model), Path(experiment), settings or {})
    else:
        backbone, projector = (model.backbone, model.projector) if isinstance(model, Student) else (model, None)
        finished = Finished(to.name, backbone, projector, configure({**fitting(backbone), **(settings or {})}))
    export_finished(finished, to, formats=formats, licence=licence, head=head, measured=True)
    return to


def export_finished(
    finished: Finished, to: Path, *, formats: Sequence[str], licence: str, head: str, measured: bool
) -> None:
    """The same of a model that is open, in the place of whatever lies there; `measured` puts speeds on its card."""
    from attndistill.handover.heads import fit_head
    from attndistill.handover.judging import judge_forms
    from attndistill.handover.picture import write_picture
    from attndistill.handover.timm_folder import write_timm_folder

    finished.backbone.cpu().float().eval()
    fitted = None
    if head:
        finished, fitted = fit_head(finished, head)
    with replacing_directory(to) as directory:
        opened, differences = write_timm_folder(directory, finished, licence, fitted)
        written: dict[str, Any] = {"model.safetensors": (opened, differences)}
        if "pt2" in formats:
            written["model.pt2"] = write_pt2(directory, finished, fitted, opened)
        if "onnx" in formats:
            written["model.onnx"] = write_onnx(directory, finished, fitted, opened)
        verdict = judge_forms(finished, {name: form for name, (form, _) in written.items()}, fitted)
        checked = Checked({name: differences for name, (_, differences) in written.items()}, verdict)
        speeds = measure_speeds(finished, opened) if measured else None
        picture = write_picture(directory, finished)
        write_text(directory / "README.md", model_card(finished, directory, checked, licence, fitted, speeds, picture))

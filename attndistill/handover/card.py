"""The model card of an exported model: what it is, how good by which protocol, from what it was made, how to use it.

Every figure is read from a result file; what nobody measured is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndistill import __version__
from attndistill.core.artifacts import file_digest, read_json
from attndistill.core.words import shown
from attndistill.data.manifest import read_manifest
from attndistill.evaluations import evaluations
from attndistill.experiments import Experiment
from attndistill.handover.heads import Head
from attndistill.handover.judging import Verdict
from attndistill.handover.models import Finished
from attndistill.handover.picture import NAME as PICTURE
from attndistill.models.description import weights_digest
from attndistill.models.vit import count_parameters
from attndistill.report.sentence import pace, share
from attndistill.report.speeds import Speeds
from attndistill.results import AttentionFile, Measurement, ProbeFile, TrainingFile


@dataclass(frozen=True)
class Checked:
    """What the written files were held against, this package's own output.

    Attributes:
        differences: file -> batch size -> the largest difference.
        verdict: what they reach on the experiment's test images, where those are here.
    """

    differences: Mapping[str, Mapping[str, float]]
    verdict: Verdict | None


_FILES = {
    "model.safetensors": "the weights; with `config.json` a folder that timm opens",
    "model.pt2": "the same as a torch.export graph",
    "model.onnx": "the same as an ONNX graph",
}


def model_card(
    finished: Finished,
    directory: Path,
    checked: Checked,
    licence: str,
    head: Head | None,
    speeds: Speeds | None,
    picture: str = "",
) -> str:
    """README.md, with the metadata that model hubs read.

    Args:
        finished: the model.
        directory: the exported folder so far.
        checked: what its files were held against.
        licence: of the weights.
        head: that makes a classifier of it.
        speeds: measured on this machine; None: not to be said.
        picture: what the picture in the folder shows; empty where there is none.
    """
    experiment = finished.experiment
    front = {
        "license": licence,
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction" if head is None else "image-classification",
        "tags": ["timm", "vision-transformer", "attention-distillation"],
    }
    title = finished.name if experiment is None else f"{experiment.name}: {finished.name}"
    parts = [_front_matter(front), f"# {title}", _first(finished, speeds), _what(finished)]
    parts += [f"![Where the model looks]({PICTURE})\n\n{picture}" if picture else ""]
    parts += [_head(head) if head else "", _use(finished, directory, head)]
    if experiment is not None:
        parts += [_figures(finished, experiment), _provenance(finished, experiment)]
    parts += [_size_and_speed(directory, speeds) if speeds else "", _files(directory, checked)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(values: Mapping[str, Any]) -> str:
    lines = [
        f"{key}: [{', '.join(value)}]" if isinstance(value, list) else f"{key}: {value}"
        for key, value in values.items()
    ]
    return "\n".join(["---", *lines, "---"])


def _what(finished: Finished) -> str:
    backbone: Any = finished.backbone
    made = "distilled without labels by attention distillation" if finished.projector else "a feature extractor"
    return (
        f"A vision transformer, {made} (attndistill {__version__}): width {backbone.embed_dim}, depth "
        f"{len(backbone.blocks)}, {backbone.blocks[-1].attn.num_heads} heads, patch "
        f"{backbone.patch_embed.patch_size[0]}, images of {finished.image_size} px, {count_parameters(backbone):,} "
        f"parameters. Its feature is the class token after the final norm (before the projector of the distillation, "
        "which is not part of this folder)."
    )


def _first(finished: Finished, speeds: Speeds | None) -> str:
    """'96 % of the teacher's k-NN top-1 at 32 % of its parameters, 4.1 times as fast on ...', as far as it is known."""
    if speeds is None or len(speeds.models) < 2 or finished.experiment is None:
        return ""
    (own, teacher), layout = speeds.models, finished.experiment.layout
    files = [ProbeFile.read_if_any(layout.result("probes", f"{name}.json")) for name in (finished.name, "teacher")]
    accuracy = None
    for name, evaluation in evaluations().items():
        found = [file.probes[name].figures.get("top1") for file in files if file and name in file.probes]
        if accuracy is None and len(found) == 2 and found[0] and found[1] and found[0].mean and found[1].mean:
            accuracy = (f"{evaluation.title} top-1", (found[0].mean, found[1].mean))
    known = share((own.parameters, teacher.parameters), (own.flops, teacher.flops), accuracy)
    return f"{known}{pace((own.images_a_second, teacher.images_a_second), speeds.place)}."


def _head(head: Head) -> str:
    return (
        f"On the feature stands a head for {len(head.classes)} classes ({head.protocol}): {head.top1:.1f} % of the "
        "test images are right. timm's `num_classes=0` takes it off."
    )


def _size_and_speed(directory: Path, speeds: Speeds) -> str:
    lines = ["| | parameters | FLOPs an image | images a second | model.safetensors |", "|---|---|---|---|---|"]
    size = (directory / "model.safetensors").stat().st_size
    named = (("this model", f"{size / 1e6:.3g} MB"), ("its teacher", ""))
    for (name, held), one in zip(named, speeds.models, strict=False):  # a teacher need not be stored
        lines.append(f"| {name} | {one.parameters:,} | {one.flops:.3g} | {one.images_a_second:,.0f} | {held} |")
    return "\n".join(["## Size and speed", "", f"Images a second on {speeds.place}.", "", *lines])


def _use(finished: Finished, directory: Path, head: Head | None) -> str:
    views, size, output = finished.config.views, finished.image_size, "features" if head is None else "logits"
    text = f"""\
## Use

    import timm, torch
    from PIL import Image

    model = timm.create_model("local-dir:path/of/this/folder", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        {output} = model(transform(Image.open("photo.jpg").convert("RGB")).unsqueeze(0))

Images: the central {views.evaluation_crop:g} of the shorter side, bicubic to {size} x {size}, RGB in [0, 1], minus
{[round(value, 4) for value in views.mean]}, divided by {[round(value, 4) for value in views.std]}{views.told()}."""
    graphs = [name for name in ("model.pt2", "model.onnx") if (directory / name).exists()]
    if head is not None:
        text += "\nThe classes' names are `label_names` in config.json. `attndistill predict` uses this folder, too."
    if graphs:
        text += f"\n{' and '.join(graphs)}: such images in (any batch, {size} px), the same out."
    return text


def _figures(finished: Finished, experiment: Experiment) -> str:
    probe = ProbeFile.read_if_any(experiment.layout.result("probes", f"{finished.name}.json"))
    attention = AttentionFile.read_if_any(experiment.layout.result("attention", f"{finished.name}.json"))
    lines = []
    for name, one in evaluations().items():
        found: Any = (attention if one.on == "maps" else probe.probes.get(name) if probe else None) or None
        for key, facts in one.figures.items():
            figure: Measurement | None = found.figures.get(key) if found else None
            if figure is not None:
                spread = "" if figure.sd is None else f" ± {figure.sd:.{facts.digits}f}"
                seeds = ", ".join(map(str, figure.seeds))
                title = one.title if one.title == facts.title else f"{one.title}, {facts.title}"
                lines.append(
                    f"| {title} | {figure.mean:.{facts.digits}f}{spread} {facts.unit} | {seeds} | "
                    f"`{shown(figure.protocol)}` |"
                )
    if not lines:
        return ""
    return "\n".join(
        [
            "## Figures",
            "",
            f"On test images, on which nothing was chosen; of the seeds, this folder holds seed {finished.seed}.",
            "",
            "| | mean ± sd | seeds | protocol |",
            "|---|---|---|---|",
            *lines,
        ]
    )


def _provenance(finished: Finished, experiment: Experiment) -> str:
    layout, config = experiment.layout, finished.config
    lines = [f"- experiment `{experiment.name}`, model `{finished.name}`, seed {finished.seed}"]
    if finished.path is not None:
        lines.append(f"- weights with P, SHA-256 `{weights_digest(finished.path)}`")
    if (layout.data / "manifest.json").exists():
        manifest = read_manifest(layout.data)
        counts = ", ".join(f"{part['count']} {name}" for name, part in manifest["splits"].items())
        labels = "without labels" if manifest.get("labelled") is False else f"{len(manifest['class_names'])} classes"
        lines.append(f"- data `{shown(manifest['dataset'])}` ({counts}, {labels}), digest `{manifest['digest']}`")
    teacher = layout.weights("teacher", config.teacher_seed)
    if (teacher / "model.json").exists():
        account = TrainingFile.read_if_any(layout.result("training", "teacher.json"))
        load = (account.load if account else None) or {}
        where = f"`{shown(load['file'])}` (SHA-256 `{load['sha256']}`)" if load else "pre-trained on the same images"
        lines.append(f"- teacher {where}, weights `{weights_digest(teacher)}`")
    for name in ("views", "targets", "distill"):
        lines.append(f"- settings `{name}`, digest `{config.digest(name)}`")
    return "\n".join(["## Made from", "", *lines])


def _files(directory: Path, checked: Checked) -> str:
    verdict = checked.verdict
    lines = [
        f"| file | | SHA-256 | largest difference of its output, by batch |{f' {verdict.what} |' if verdict else ''}",
        f"|---|---|---|---|{'---|' if verdict else ''}",
    ]
    for name, differences in checked.differences.items():
        told = ", ".join(f"{batch}: {value:.1e}" for batch, value in differences.items())
        judged = f" {verdict.forms[name]:.2f} |" if verdict else ""
        lines.append(f"| {name} | {_FILES[name]} | `{file_digest(directory / name)}` | {told} |{judged}")
    if verdict:
        lines.append(f"| attndistill itself | | | | {verdict.own:.2f} |")
    architecture = read_json(directory / "config.json")["architecture"]
    return "\n".join(
        ["## Files", "", *lines, "", f"timm's constructor is `{architecture}`, its sizes are in config.json."]
    )

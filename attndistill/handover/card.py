"""The model card of an exported model: what it is, how good by which protocol, from what it was made, how to use it.

Every figure is read from a result file; what nobody measured is left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attndistill import __version__
from attndistill.core.artifacts import file_digest, read_json
from attndistill.core.words import shown
from attndistill.data.manifest import read_manifest
from attndistill.evaluations import evaluations
from attndistill.experiments import Experiment
from attndistill.handover.models import Finished
from attndistill.models.storage import weights_digest
from attndistill.models.vit import count_parameters
from attndistill.results import AttentionFile, Measurement, ProbeFile, TrainingFile

_FILES = {
    "model.safetensors": "the weights; with `config.json` a folder that timm opens",
    "model.pt2": "the same as a torch.export graph",
    "model.onnx": "the same as an ONNX graph",
}


def model_card(finished: Finished, directory: Path, checked: Mapping[str, Mapping[str, float]], licence: str) -> str:
    """README.md, with the metadata that model hubs read.

    Args:
        finished: the model.
        directory: the exported folder so far.
        checked: file -> batch size -> the largest difference of features from this package's.
        licence: of the weights.
    """
    experiment = finished.experiment
    front = {
        "license": licence,
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "vision-transformer", "attention-distillation"],
    }
    title = finished.name if experiment is None else f"{experiment.name}: {finished.name}"
    parts = [_front_matter(front), f"# {title}", _what(finished), _use(finished, directory)]
    if experiment is not None:
        parts += [_figures(finished, experiment), _provenance(finished, experiment)]
    parts.append(_files(directory, checked))
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


def _use(finished: Finished, directory: Path) -> str:
    views, size = finished.config.views, finished.image_size
    text = f"""\
## Use

    import timm, torch
    from PIL import Image

    model = timm.create_model("local-dir:path/of/this/folder", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        features = model(transform(Image.open("photo.jpg").convert("RGB")).unsqueeze(0))

Images: the central {views.evaluation_crop:g} of the shorter side, bicubic to {size} x {size}, RGB in [0, 1], minus
{[round(value, 4) for value in views.mean]}, divided by {[round(value, 4) for value in views.std]}."""
    graphs = [name for name in ("model.pt2", "model.onnx") if (directory / name).exists()]
    if graphs:
        text += f"\n{' and '.join(graphs)}: such images in (any batch, {size} px), the same features out."
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


def _files(directory: Path, checked: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["| file | | SHA-256 | largest difference of a feature, by batch |", "|---|---|---|---|"]
    for name, differences in checked.items():
        told = ", ".join(f"{batch}: {value:.1e}" for batch, value in differences.items())
        lines.append(f"| {name} | {_FILES[name]} | `{file_digest(directory / name)}` | {told} |")
    architecture = read_json(directory / "config.json")["architecture"]
    return "\n".join(
        ["## Files", "", *lines, "", f"timm's constructor is `{architecture}`, its sizes are in config.json."]
    )

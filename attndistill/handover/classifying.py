"""Photos by a classifier that was exported: a timm folder with a head and the names of its classes.

The folder may be anybody's: its sizes are held against its tensors' before memory is taken, and nothing in it is run.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open

from attndistill.config import Config
from attndistill.core.artifacts import write_text
from attndistill.core.progress import progress
from attndistill.core.reading import read_model, regular_file
from attndistill.core.words import cell, shown
from attndistill.data.files import FileImages
from attndistill.data.loading import evaluation_batches
from attndistill.data.views import ViewRecipe
from attndistill.library import configure, execution_of
from attndistill.models.weightless import weightless

_MOST_WEIGHTS = 2**36  # bytes
# of the configuration's teacher and student, which are not read: patches that every image size allows
_UNREAD = {
    f"{half}.{name}": value
    for half in ("teacher", "student")
    for name, value in (("patch_size", 1), ("position", "learnable"))
}
_ALLOWED = "a folder of `attndistill export MODEL --head logistic`"
Amount = Field(ge=0, le=65_536)
Side = Annotated[int, Field(gt=0, le=4096)]
Share = Annotated[float, Field(gt=0, le=1)]
Three = Annotated[list[float], Field(min_length=3, max_length=3)]


class _Seen(BaseModel):
    """How images reach the model."""

    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    crop_pct: Share
    mean: Three
    std: Three


class _Described(BaseModel):
    """config.json, as far as it is read here."""

    model_config = ConfigDict(protected_namespaces=())
    architecture: Annotated[str, Field(pattern=r"^(vit|deit|eva)[a-z0-9_]*$", max_length=80)]
    num_classes: Annotated[int, Field(ge=0, le=1_000_000)]
    label_names: list[Annotated[str, Field(max_length=500)]] = []
    model_args: dict[str, Annotated[int, Amount] | Annotated[float, Amount] | bool | str] = {}
    pretrained_cfg: _Seen


@dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode, its classes, and the configuration under which images reach it."""

    model: torch.nn.Module
    classes: tuple[str, ...]
    config: Config


def open_classifier(folder: Path, settings: dict[str, Any]) -> Classifier:
    """Read a folder that `attndistill export --head` wrote.

    Raises:
        ValueError: no such folder, no head, or a broken or hostile file.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"{shown(folder)} is no exported classifier; allowed: {_ALLOWED}")
    told = read_model(folder / "config.json", _Described, at_most=2**24)
    if not told.num_classes or len(told.label_names) != told.num_classes:
        raise ValueError(
            f"{shown(folder)} has {told.num_classes} classes and {len(told.label_names)} names of classes: no "
            f"classifier; allowed: {_ALLOWED}"
        )
    model = _built(folder, told)
    seen = told.pretrained_cfg
    views = {"image_size": seen.input_size[1], "evaluation_crop": seen.crop_pct, "mean": seen.mean, "std": seen.std}
    config = configure({**{f"views.{name}": value for name, value in views.items()}, **_UNREAD, **settings})
    return Classifier(model.eval(), tuple(told.label_names), config)


def _built(folder: Path, told: _Described) -> torch.nn.Module:
    """The model that config.json describes, with the tensors of model.safetensors, all of them and no others."""
    path = folder / "model.safetensors"
    try:
        regular_file(path, at_most=_MOST_WEIGHTS).close()
        with safe_open(path, "pt") as file:
            given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            blocks = len({name.split(".")[1] for name in given if name.startswith("blocks.")})
            if (depth := told.model_args.get("depth", blocks)) != blocks:  # before so many are built
                raise ValueError(f"depth {depth}, but there are tensors of {blocks} blocks")
            with weightless():
                model: torch.nn.Module = timm.create_model(
                    told.architecture, pretrained=False, num_classes=told.num_classes, **told.model_args
                )
            wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
            odd = sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name))
            if odd:
                raise ValueError(
                    f"{odd[0]}: {given.get(odd[0], 'missing')}, the model has {wanted.get(odd[0], 'none')}"
                )
            model.load_state_dict({name: file.get_tensor(name).float() for name in given}, assign=True)
    except FileNotFoundError:
        raise ValueError(f"{shown(path)} does not exist") from None
    except (ArithmeticError, AssertionError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        problem = shown(" ".join(str(error).split()), 200) or type(error).__name__
        raise ValueError(f"{shown(folder)} is no model that timm can build: {problem}") from None
    return model


def predict_photos(images: Path, folder: Path, to: Path | None, settings: dict[str, Any]) -> tuple[int, str]:
    """Classes of every image below a folder, as CSV: name, label, probability.

    Args:
        images: the folder, or one image.
        folder: of an exported classifier.
        to: a .csv file; None: nothing is written.
        settings: dotted keys of `data` and `runtime`.

    Returns:
        How many, and the CSV.

    Raises:
        ValueError: another kind of file, no images, an image that cannot be decoded, or no classifier.
    """
    if to is not None and (to.suffix != ".csv" or to.is_dir() or not to.parent.is_dir()):
        raise ValueError(f"{shown(to)}: allowed: a file that ends in .csv, in a folder that is there")
    classifier = open_classifier(folder, settings)
    data = classifier.config.data
    found = FileImages(images, max_pixels=data.max_pixels, skip_bad=data.on_bad_image == "skip")
    probabilities = _probabilities(classifier, found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "label", "probability"))
    for name, row in zip(found.names, probabilities, strict=True):
        best = int(row.argmax())
        writer.writerow((cell(name), cell(classifier.classes[best]), f"{row[best]:.4f}"))
    if to is not None:
        write_text(to, text.getvalue())
    return len(found), text.getvalue()


def _probabilities(classifier: Classifier, images: FileImages) -> NDArray[np.float64]:
    execution, views = execution_of(classifier.config, "predict"), classifier.config.views
    model, rows = classifier.model.to(execution.device), []
    with torch.no_grad(), progress("predict", len(images), "images") as update:
        done = 0
        for batch in evaluation_batches(
            images, ViewRecipe.of(views), crop_share=views.evaluation_crop, batch_size=execution.evaluation_batch_size
        ):
            logits = model(batch.images.to(execution.device)).double()
            rows.append(logits.softmax(dim=-1).cpu().numpy())
            update(done := done + len(batch.labels))
    return np.concatenate(rows)

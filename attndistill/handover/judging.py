"""Whether an exported form judges photos as this package does: its k-NN figure on the experiment's own test images.

The largest difference of an output says little to those who will use it. This says what it is worth: the same photos,
the same protocol, once by this package and once by the form.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attndistill.core.progress import progress
from attndistill.data.loading import evaluation_batches
from attndistill.data.manifest import read_manifest
from attndistill.data.store import ImageSet, open_split, validation_indices
from attndistill.evaluations.classifiers import LabelledFeatures, ProbeData, knn, unit
from attndistill.handover.heads import Head
from attndistill.handover.models import Finished
from attndistill.models.readout import read_features

Form = Callable[[Tensor], Tensor]
MOST = {"train": 2000, "test": 1000}  # images that are asked; of larger sets these many, evenly spaced
_SLACK = 0.2  # percent of test images that rounding may turn; one image, where that is more
_TOGETHER, _TOLD = 64, 500  # images in a batch; images from which progress is shown

# N images, D numbers of an output


@dataclass(frozen=True)
class Verdict:
    """What the forms reached on the test images.

    Attributes:
        what: the figure, its protocol and on how many images.
        own: by this package.
        forms: by each file.
    """

    what: str
    own: float
    forms: Mapping[str, float]


def judge_forms(finished: Finished, forms: Mapping[str, Form], head: Head | None) -> Verdict | None:
    """The figure of this package and of every form; None where the experiment's images are not here.

    With a head it is the share of test images that are right. Images without labels have no k-NN figure: of those it is
    the share whose nearest training image is the one that it is by this package's features.

    Raises:
        ValueError: a form whose figure is another one.
    """
    if finished.experiment is None or not (finished.experiment.layout.data / "manifest.json").exists():
        return None
    folder = finished.experiment.layout.data
    manifest = read_manifest(folder)
    labelled = manifest.get("labelled") is not False
    splits = {name: open_split(folder, name) for name in (("test",) if head else ("train", "test"))}
    chosen = {name: _spread(len(split), MOST[name]) for name, split in splits.items()}

    def figure(form: Form, reference: Mapping[str, LabelledFeatures] | None, label: str) -> tuple[float, Any]:
        parts = {name: _outputs(form, finished, split, chosen[name], label) for name, split in splits.items()}
        if head is not None:
            return _percent(parts["test"].features.argmax(axis=1) == parts["test"].labels), parts
        if not labelled:
            nearest = [_nearest(found) for found in (parts, reference or parts)]
            return _percent(nearest[0] == nearest[1]), parts
        held_out = np.flatnonzero(np.isin(chosen["train"], validation_indices(folder)))
        data = ProbeData(parts["train"], held_out, parts["test"], len(manifest["class_names"]))
        return knn(data, **finished.config.probe.chosen().get("knn", {})).top1, parts

    ours: Form = head.logits if head else lambda images: read_features(finished.backbone, images).cls_token
    own, reference = figure(ours, None, "this package")
    found = {name: figure(form, reference, name)[0] for name, form in forms.items()}
    count = len(chosen["test"])
    for name, value in found.items():
        if abs(value - own) > max(_SLACK, 100 / count + 1e-9):
            raise ValueError(f"{name}: {value:.2f} on {count} test images, where this package has {own:.2f}")
    return Verdict(_what(head, labelled, {name: len(places) for name, places in chosen.items()}), own, found)


def _what(head: Head | None, labelled: bool, counts: Mapping[str, int]) -> str:
    if head is not None:
        return f"percent right of {counts['test']:,} test images"
    among = f"{counts['test']:,} test images among {counts['train']:,} of train"
    return f"k-NN top-1 (`knn/dino-v1`), {among}" if labelled else f"percent with the same nearest image, {among}"


def _spread(length: int, most: int) -> NDArray[np.int64]:
    """All, or `most` evenly spaced."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))


def _outputs(
    form: Form, finished: Finished, images: ImageSet, places: NDArray[np.int64], label: str
) -> LabelledFeatures:
    crop, rows = finished.config.views.evaluation_crop, list[Any]()
    with progress(f"k-NN by {label}", len(places), "images", shown=len(places) >= _TOLD) as update, torch.no_grad():
        for batch in evaluation_batches(images, finished.views, crop_share=crop, batch_size=_TOGETHER, indices=places):
            rows.append(form(batch.images).float().numpy())
            update(sum(map(len, rows)))
    return LabelledFeatures(np.concatenate(rows), np.asarray(images.labels)[places])


def _nearest(parts: Mapping[str, LabelledFeatures]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = (unit(parts["test"].features) @ unit(parts["train"].features).T).argmax(axis=1)
    return found


def _percent(right: Any) -> float:
    return float(100 * np.mean(right))

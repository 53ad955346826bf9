"""The exhibits of one model, from the features that are already there."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attndistill.data.splits import first_of_classes
from attndistill.data.store import ImageSet
from attndistill.data.views import evaluation_boxes
from attndistill.evaluations.classifiers import knn_scores, unit
from attndistill.evaluations.judged import Judged
from attndistill.exhibits import FILE, PICTURES, Asked, Confusion, Exhibits, Mistake, Neighbour, Pictures
from attndistill.models.vit import count_parameters

_ASKED, _NEAREST, _MISTAKES, _PAIRS = 10, 5, 12, 12  # shown
_CLASSES = 30  # of a matrix that a page can show
_SIDE = 112  # pixels of a picture, at most


def write_exhibits(
    directory: Path,
    judged: Judged,
    *,
    name: str,
    class_names: Sequence[str],
    labelled: bool,
    features: bool,
    knn: tuple[str, int, float] | None,
) -> None:
    """Write exhibits.json and pictures.npz.

    Args:
        directory: empty.
        judged: the model and its data.
        name: of the model.
        class_names: of the data set.
        labelled: whether its classes mean anything.
        features: whether features were computed anyway; without them only the size is told.
        knn: protocol, k and temperature of the k-NN figure, where it was measured.
    """
    drawer = _Drawer(judged)
    kinds = list(class_names) if labelled else None
    found: dict[str, Any] = {}
    if features:
        found["neighbours"] = _neighbours(judged, drawer, kinds)
        if labelled and knn is not None:
            found |= _mistakes(judged, drawer, list(class_names), *knn)
    backbone = judged.backbone
    size = {
        "parameters": count_parameters(backbone),
        "flops": flops_of(backbone),
        "weight_bytes": sum(tensor.nbytes for tensor in backbone.state_dict().values()),
    }
    Exhibits(model=name, seed=judged.seed, **size, **found).write(directory / FILE)
    if drawer.images:
        Pictures(np.stack(drawer.images)).write(directory / PICTURES)


def flops_of(backbone: Any) -> int:
    """Of one image through timm's own forward pass."""
    side = int(backbone.patch_embed.img_size[0])
    device = next(backbone.parameters()).device
    backbone.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        backbone.forward_features(torch.zeros(1, 3, side, side, device=device))
    return int(counter.get_total_flops())


class _Drawer:
    """Collects pictures, each once, and numbers them."""

    def __init__(self, judged: Judged) -> None:
        self.images: list[NDArray[np.uint8]] = []
        self._crop, self._side = judged.crop_share, min(judged.views.image_size, _SIDE)
        self._numbers: dict[tuple[int, int], int] = {}

    def photo(self, images: ImageSet, index: int, kinds: Sequence[str] | None) -> dict[str, Any]:
        """The fields of a `Photo`."""
        key = (id(images), index)
        if key not in self._numbers:
            self._numbers[key] = len(self.images)
            self.images.append(pictures(images, [index], self._crop, self._side)[0])
        kind = None if kinds is None else kinds[int(np.asarray(images.labels)[index])]
        return {"picture": self._numbers[key], "name": str(images.names[index])[:500], "kind": kind}


def pictures(images: ImageSet, indices: Sequence[int], crop_share: float, side: int) -> NDArray[np.uint8]:
    """Evaluation views as a person sees them: (K, side, side, 3)."""
    chosen = np.array(indices, np.int64)
    crops = images.crops(chosen, evaluation_boxes(*images.sizes(chosen), crop_share), side)
    found: NDArray[np.uint8] = (crops * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return found


def _neighbours(judged: Judged, drawer: _Drawer, kinds: Sequence[str] | None) -> tuple[Asked, ...]:
    """One test image a class (evenly spaced ones where there are no classes), with the nearest training images."""
    train, test = judged.train, judged.test
    spaced = np.linspace(0, len(test) - 1, min(_ASKED, len(test))).astype(int).tolist()
    chosen = first_of_classes(np.asarray(test.labels), _ASKED) if kinds is not None else spaced
    bank = judged.kept
    similarity = unit(judged.features.test.features[chosen]) @ unit(judged.features.train.features).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEAREST]
    found = []
    for row, index in enumerate(chosen):
        nearest = tuple(
            Neighbour(**drawer.photo(train, int(bank[place]), kinds), cosine=float(similarity[row, place]))
            for place in order[row]
        )
        found.append(Asked(**drawer.photo(test, index, kinds), nearest=nearest))
    return tuple(found)


def _mistakes(
    judged: Judged, drawer: _Drawer, names: list[str], protocol: str, k: int, temperature: float
) -> dict[str, Any]:
    """The confusion of classes, and the mistakes that have most votes."""
    data = judged.features
    scores = knn_scores(data.train, data.test, data.classes, [k], temperature)[k]
    share = scores / np.maximum(scores.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    taken, true = share.argmax(axis=1), data.test.labels
    wrong = np.flatnonzero(taken != true)
    pairs = Counter((names[true[index]], names[taken[index]]) for index in wrong.tolist())
    shown = len(names) <= _CLASSES
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (true, taken), 1)
    worst = wrong[np.argsort(-share[wrong, taken[wrong]], kind="stable")][:_MISTAKES].tolist()
    return {
        "confusion": Confusion(
            protocol=f"{protocol}, k = {k}",
            classes=tuple(names) if shown else (),
            counts=tuple(map(tuple, counts.tolist())) if shown else (),
            pairs=tuple(
                (*pair, count) for pair, count in sorted(pairs.items(), key=lambda one: (-one[1], one[0]))[:_PAIRS]
            ),
        ),
        "mistakes": tuple(
            Mistake(
                **drawer.photo(judged.test, index, names),
                taken_for=names[taken[index]],
                share=float(share[index, taken[index]]),
            )
            for index in worst
        ),
    }

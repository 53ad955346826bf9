"""How much a student agrees with its teacher where nobody has labels: class tokens, and whom they are near to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import unit
from attndistill.evaluations.embedding import embed_split
from attndistill.evaluations.judged import Judged


@dataclass(frozen=True)
class Agreement:
    """Of one student with its teacher, on held-out images."""

    protocol: str
    figures: Mapping[str, float]
    chosen: dict[str, float] = field(default_factory=dict)
    sweep: dict[str, float] = field(default_factory=dict)


@EVALUATIONS.register(
    "agreement",
    title="Agreement with teacher",
    on="pair",
    figures={
        "cosine": ("cosine of class tokens", "", "maximize", 3),
        "overlap": ("neighbours shared", "%", "maximize", 1),
    },
)
def agreement(student: Judged, teacher: Judged, *, neighbours: Annotated[int, Field(gt=0)] = 10) -> Agreement:
    """Mean cosine of the projected class token and the teacher's; and of a held-out image's `neighbours` nearest
    training images (cosine, by the feature that is judged) the share that the teacher counts among its own nearest.

    Raises:
        ValueError: a model without P, or no more training images than neighbours: all would be shared.
    """
    if student.projector is None:
        raise ValueError("agreement: the model has no projector; allowed: a student that was distilled")
    images = len(student.features.train.features)
    if neighbours >= images:
        raise ValueError(f"probe.agreement.neighbours {neighbours}; allowed: fewer than the {images} training images")
    projected = embed_split(
        student.backbone,
        student.test,
        student.views,
        crop_share=student.crop_share,
        batch_size=student.execution.evaluation_batch_size,
        device=student.execution.device,
        projector=student.projector,
        layer=student.projector.depth,
    ).features
    cosine = (unit(projected) * unit(teacher.features.test.features)).sum(axis=1, dtype=np.float64).mean()
    ours, theirs = _nearest(student, neighbours), _nearest(teacher, neighbours)
    shared = [len(np.intersect1d(one, other)) for one, other in zip(ours, theirs, strict=True)]
    figures = {"cosine": float(cosine), "overlap": float(100 * np.mean(shared) / neighbours)}
    return Agreement(f"agreement/cosine-{neighbours}nn-v1", figures)


def _nearest(judged: Judged, neighbours: int) -> NDArray[np.int64]:
    """(test images, neighbours): places in train."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(unit(judged.features.train.features))
    found: NDArray[np.int64] = search.kneighbors(unit(judged.features.test.features), return_distance=False)
    return found

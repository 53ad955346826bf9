"""What the report shows of a model beside its figures: its size, what it confuses, its worst mistakes, nearest photos.

    outputs/exhibits/<model>/exhibits.json   Exhibits
    outputs/exhibits/<model>/pictures.npz    Pictures, which the former names by number; absent where it names none

Of the first seed, on the feature that the probes judge. The probe stage makes them, the report reads them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from attndistill.results import Arrays, Name, Real, ResultFile, Strict, Text, Whole

# K pictures of side S

FILE, PICTURES = "exhibits.json", "pictures.npz"


class Photo(Strict):
    """A picture by its number, with the image's name and class; no class where images have none."""

    picture: Whole
    name: Text
    kind: Text | None


class Neighbour(Photo):
    """A training image near a test image, by the cosine of their features."""

    cosine: Real


class Asked(Photo):
    """A test image, and the training images nearest to it."""

    nearest: tuple[Neighbour, ...]


class Mistake(Photo):
    """A test image that k-NN takes for another class, with the share of the votes that the other class has."""

    taken_for: Text
    share: Real


class Confusion(Strict):
    """What k-NN takes test images for.

    Attributes:
        protocol: and k, as the model's figure was measured.
        classes: names; all of them, or none where there are too many to show.
        counts: (true, taken for) test images, in the order of `classes`.
        pairs: the most frequent confusions (true, taken for, images).
    """

    protocol: Text
    classes: tuple[Text, ...]
    counts: tuple[tuple[Whole, ...], ...]
    pairs: tuple[tuple[Text, Text, Whole], ...]

    @model_validator(mode="after")
    def _square(self) -> "Confusion":
        side = len(self.classes)
        if len(self.counts) != side or any(len(line) != side for line in self.counts):
            raise ValueError(f"counts of {len(self.counts)} classes; allowed: {side} x {side}")
        return self


class Exhibits(ResultFile):
    """Of one model.

    Attributes:
        parameters: of the backbone.
        flops: of one image through it, two for a multiplication and an addition.
        weight_bytes: of its tensors, as they are exported.
    """

    model: Name
    seed: Whole
    parameters: Whole
    flops: Whole
    weight_bytes: Whole
    confusion: Confusion | None = None
    mistakes: tuple[Mistake, ...] = ()
    neighbours: tuple[Asked, ...] = ()

    @property
    def photos(self) -> list[Photo]:
        """Every picture that is named."""
        return [*self.mistakes, *self.neighbours, *(one for asked in self.neighbours for one in asked.nearest)]


@dataclass(frozen=True)
class Pictures(Arrays):
    """Evaluation views as a person sees them."""

    ARRAYS = {"images": ("u1", "K S S 3")}  # noqa: RUF012
    images: NDArray[np.uint8]

"""The pairs of teacher and student that are measured, and both sides of each, from the same weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attndistill.core.features import Features
from attndistill.data.loading import Batch, view_batch
from attndistill.data.store import ArrayImages
from attndistill.data.views import ViewRecipe
from attndistill.distillation import build_objective
from attndistill.library import configure
from attndistill.models.families import Backbone
from attndistill.models.projector import Projector, Student
from attndistill.models.vit import build_vit
from attndistill.tasks.distillation import Distillation
from benchmarks.reference import PublishedDistillation, published_from

PROJECTOR_DEPTH = 4
_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Configuration:
    """A teacher, a student, and how they are matched.

    Attributes:
        label: as the tables call it.
        teacher: keyword arguments of `build_vit`.
        student: likewise.
        image_size: side of a view, pixels.
        stored_size: side of the images in memory that views are cut from.
        temperature: T of head aggregation, or None for heads one to one (as the published scripts have it).
        batch_size: images a step, by kind of device.
    """

    label: str
    teacher: dict[str, Any]
    student: dict[str, Any]
    image_size: int
    stored_size: int
    temperature: float | None
    batch_size: dict[str, int]

    @property
    def recipe(self) -> ViewRecipe:
        return ViewRecipe(0, self.image_size, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, *_STATISTICS)


def _sizes(embed_dim: int, depth: int, num_heads: int, patch_size: int) -> dict[str, Any]:
    """Keyword arguments of `build_vit`."""
    sizes = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
    return {**sizes, "mlp_ratio": 4.0, "position": "learnable"}


CONFIGURATIONS = {
    "s8-s16": Configuration(
        "S/8 -> S/16, 224 px",
        _sizes(384, 12, 6, 8),
        _sizes(384, 12, 6, 16),
        image_size=224,
        stored_size=256,
        temperature=None,
        batch_size={"cpu": 4, "cuda": 64},
    ),
    "b16-s16": Configuration(
        "B/16 -> S/16, 224 px",
        _sizes(768, 12, 12, 16),
        _sizes(384, 12, 6, 16),
        image_size=224,
        stored_size=256,
        temperature=10.0,
        batch_size={"cpu": 8, "cuda": 128},
    ),
    "s16-t16": Configuration(
        "S/16 -> T/16, 224 px",
        _sizes(384, 12, 6, 16),
        _sizes(192, 12, 3, 16),
        image_size=224,
        stored_size=256,
        temperature=10.0,
        batch_size={"cpu": 8, "cuda": 256},
    ),
    "small": Configuration(
        "192x12 p4 -> 192x8 p8, 32 px",
        _sizes(192, 12, 3, 4),
        _sizes(192, 8, 3, 8),
        image_size=32,
        stored_size=32,
        temperature=10.0,
        batch_size={"cpu": 128, "cuda": 1024},
    ),
}


@dataclass(frozen=True)
class Pair:
    """Both sides of a configuration, from one state dict, on one device."""

    configuration: Configuration
    teacher: Backbone
    student: Student
    device: torch.device

    @classmethod
    def built(cls, configuration: Configuration, device: torch.device) -> "Pair":
        teacher = build_vit(configuration.image_size, 0, **configuration.teacher)
        backbone = build_vit(configuration.image_size, 1, **configuration.student)
        projector = Projector(backbone.embed_dim, teacher.embed_dim, PROJECTOR_DEPTH, seed=1)
        return cls(configuration, teacher.eval().to(device), Student(backbone, projector).to(device), device)

    def reference(self) -> PublishedDistillation:
        """The published algorithm, with weights of its own."""
        sizes = {"teacher": self.configuration.teacher, "student": self.configuration.student}
        settings = {"image_size": self.configuration.image_size, "temperature": self.configuration.temperature}
        return published_from(self.teacher, self.student, sizes, **settings).to(self.device)  # type: ignore[arg-type]

    def task(self, teach: Callable[[Batch], Features]) -> Distillation:
        """The package's task for `teach`."""
        temperature = self.configuration.temperature
        chosen = {"name": "none"} if temperature is None else {"name": "geometric_mean", "temperature": temperature}
        halves = {"teacher": self.configuration.teacher, "student": self.configuration.student}
        sizes = {f"{half}.{name}": value for half, given in halves.items() for name, value in given.items()}
        settings = {**sizes, "views.image_size": self.configuration.image_size, "distill.aggregation": chosen}
        options = configure(settings).distill
        objective = build_objective(options, self.teacher, self.student.backbone)
        return Distillation(self.student, teach, objective)


def made_up_images(configuration: Configuration, count: int) -> ArrayImages:
    """Smooth random images in memory. What is in them does not change the time of a step."""
    side = configuration.stored_size
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").mul(255).byte()
    array = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    return ArrayImages(array, np.zeros(count, np.int64), [str(number) for number in range(count)])


def first_batch(images: ArrayImages, configuration: Configuration) -> Batch:
    """The views of all images in epoch 0."""
    return view_batch(images, configuration.recipe, 0, np.arange(len(images), dtype=np.int64))

"""Small real image trees and prepared sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attndistill.data.preparation import prepare
from attndistill.data.sources import open_source
from attndistill.data.views import ViewRecipe

Prepare = Callable[..., dict[str, Any]]


@pytest.fixture
def recipe() -> ViewRecipe:
    """Table 8's augmentation at 16 pixels, without normalisation."""
    return ViewRecipe(3, 16, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/{train,val}/{ant,bee}: 6 and 3 images a class, of different sizes, JPEG and PNG."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(("ant", "bee")):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = 20 + 3 * number + label, 31 - number
                pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}_{number}.{'png' if number % 2 else 'JPEG'}")
    return tmp_path / "tree"


@pytest.fixture
def prepare_set(tmp_path: Path) -> Prepare:
    """Prepare a registered set into tmp_path/prepared (or `to`); returns the manifest."""

    def run(name: str, options: dict[str, Any], to: str = "prepared", **changed: Any) -> dict[str, Any]:
        settings = {"validation_fraction": 0.2, "split_seed": 0} | changed
        return prepare(open_source(name, options), tmp_path / to, **settings)

    return run

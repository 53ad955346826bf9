"""A finished model by its name or place, with the experiment it came from, where there is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndistill.config import Config
from attndistill.core.words import shown
from attndistill.data.views import ViewRecipe
from attndistill.experiments import ROWS, Experiment, open_experiment
from attndistill.library import configure, fitting, load_teacher
from attndistill.models.families import Backbone
from attndistill.models.projector import Projector
from attndistill.models.storage import load_model


@dataclass(frozen=True)
class Finished:
    """A model in evaluation mode and how images reach it.

    Attributes:
        name: of the row or the pre-trained model; of the file where it came from nowhere known.
        backbone, projector: a teacher has no projector.
        config: of its experiment; else the defaults at the model's sizes.
        experiment: that it came from, None where it is not known.
        seed: of the model within its experiment.
        path: where it is stored; None in memory.
    """

    name: str
    backbone: Backbone
    projector: Projector | None
    config: Config
    experiment: Experiment | None = None
    seed: int = 0
    path: Path | None = None

    @property
    def image_size(self) -> int:
        """Side of its square input, pixels."""
        return int(self.backbone.patch_embed.img_size[0])

    @property
    def views(self) -> ViewRecipe:
        """How images become its input."""
        return ViewRecipe.of(self.config.views)


def open_finished(word: str, folder: Path, settings: Mapping[str, Any]) -> Finished:
    """A model by its place, or by its name in the experiment of `folder`.

    Args:
        word: a stored model's folder (or the folder of its seeds), a checkpoint file, or a model of the experiment.
        folder: the experiment that names are of.
        settings: dotted keys that overlay the experiment's.

    Raises:
        ValueError: nothing of that name, or a broken, hostile or unknown file.
    """
    place = Path(word)
    if (
        place.name == word
        and (folder / ROWS).is_file()
        and (own := open_experiment(folder).layout.model(word)).exists()
    ):
        place = own  # a row's name wins over a file of that name: ./NAME is the file
    if not place.exists():
        raise ValueError(
            f"model {shown(word)}: no such file or folder, and no stored model of the experiment here; allowed: a "
            "folder with model.json, a checkpoint file, or the name of a row that was distilled"
        )
    if place.is_dir() and not (place / "model.json").exists():
        seeds = sorted(place.glob("seed-*/model.json"), key=lambda path: int(path.parent.name.removeprefix("seed-")))
        place = seeds[0].parent if seeds else place
    found = _experiment_of(place)
    if not (place / "model.json").exists():
        backbone, projector = load_teacher(place), None
    else:
        backbone, projector = load_model(place)
    if found is None:
        config = configure({**fitting(backbone), **settings})
        return Finished(place.name, backbone, projector, config, path=place)
    experiment, name, seed = found
    return Finished(name, backbone, projector, experiment.config(name, settings), experiment, seed, place)


def _experiment_of(place: Path) -> tuple[Experiment, str, int] | None:
    """The experiment in whose outputs a model lies: outputs/<kind>/<name>/seed-<n>."""
    whole = place.resolve()
    if not whole.name.startswith("seed-") or len(whole.parents) < 4 or not (whole.parents[3] / ROWS).is_file():
        return None
    experiment, name = open_experiment(whole.parents[3]), whole.parent.name
    seed = whole.name.removeprefix("seed-")
    return (experiment, name, int(seed)) if experiment.layout.model(name) == whole.parent and seed.isdecimal() else None

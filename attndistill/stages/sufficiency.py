"""What prepared data alone decide, asked before anything is trained on them. No stage imports this: it only refuses."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.stages.layout import Layout

if TYPE_CHECKING:
    from attndistill.config import Config

_CHOOSES = ("knn", "logistic")  # by images that are held out of the labelled ones


def check_sufficient(config: "Config", layout: Layout, folder: Path, *, trains: bool) -> None:
    """Hold prepared data against what later stages ask of them; data that are not prepared are passed over.

    Args:
        config: the resolved configuration.
        layout: where the data lie.
        folder: the experiment's, from which label lists are named.
        trains: whether the stage is the first that trains: label lists are read then, since that takes longer.

    Raises:
        ValueError: pictures beyond the test split; labels too few to choose by.
    """
    _check_pictured(config, layout.data)
    for name in ("", *config.datasets) if trains else ():
        section, data = ("probe", config.data) if not name else (f"datasets.{name}.probe", config.datasets[name].data)
        _check_labelled(section, config.probe_of(name), data, layout.prepared(name), folder)


def _check_pictured(config: "Config", directory: Path) -> None:
    """The test split has the images that are to be pictured."""
    from attndistill.data.manifest import Manifest

    if config.attention.images is None or not (directory / "manifest.json").exists():
        return
    count = Manifest.read(directory).splits["test"].count
    beyond = [index for index in config.attention.images if index >= count]
    if beyond:
        raise ValueError(f"attention.images {beyond[0]}: the test split has {count} images; allowed: 0 to {count - 1}")


def _check_labelled(section: str, probe: Any, data: Any, directory: Path, folder: Path) -> None:
    """Of the images that keep their label, some of a class can be held out."""
    few = probe.labels
    if (few.fraction is None and few.list_file is None) or not (directory / "manifest.json").exists():
        return
    import numpy as np

    from attndistill.data.label_subsets import LeftOut, label_subset
    from attndistill.data.manifest import read_manifest
    from attndistill.data.splits import stratified_subset
    from attndistill.data.store import open_split

    manifest = read_manifest(directory)
    if manifest.get("labelled") is False:
        return
    images = open_split(directory, "train")
    labels = np.asarray(images.labels)
    listed = None if few.list_file is None else folder / few.list_file
    kept = label_subset(
        images.names, labels, list_file=listed, fraction=few.fraction, seed=few.seed, left_out=LeftOut.of(manifest)
    ).positions
    held_out = stratified_subset(
        labels[kept], data.validation_fraction, data.validation_seed, "validation", leave_one=True
    )
    chooses = [name for name in _CHOOSES if getattr(probe, name) is not None]
    if chooses and not len(held_out):
        raise ValueError(
            f"{section}.labels keeps {len(kept)} images, one a class: none is left to choose k and C on; "
            f"allowed: two or more of a class, or {' and '.join(chooses)} switched off (null)"
        )

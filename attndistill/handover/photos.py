"""A finished model asked about photos: their features as a file, and which are nearest to one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndistill.core.artifacts import replacing
from attndistill.core.progress import progress
from attndistill.core.words import shown
from attndistill.data.files import FileImages
from attndistill.evaluations.classifiers import unit
from attndistill.evaluations.embedding import embed_split
from attndistill.handover.models import Finished, open_finished
from attndistill.library import execution_of

_KINDS = (".npz", ".parquet")


def embed_photos(images: Path, model: str, to: Path, *, experiment: Path, settings: Mapping[str, Any]) -> int:
    """Write names and features of every image below a folder to an .npz or a .parquet file. Returns how many.

    Args:
        images: the folder, or one image.
        model: see `open_finished`.
        to: the file: arrays (or columns) `name` and `feature`, and the model's name in `model`.
        experiment: the folder whose rows names are of.
        settings: dotted keys of `views`, `data` and `runtime`.

    Raises:
        ValueError: another kind of file, no images, an image that cannot be decoded, or an unknown model.
    """
    if to.suffix not in _KINDS:
        raise ValueError(f"{shown(to)}: the name ends in none of {', '.join(_KINDS)}")
    _check_room(to)
    finished = open_finished(model, experiment, settings)
    found = _files(images, finished)
    features = _features(finished, found)
    with replacing(to) as beside:
        if to.suffix == ".npz":
            with beside.open("wb") as file:
                np.savez(file, name=np.array(found.names), feature=features, model=np.array(finished.name))
        else:
            _write_parquet(beside, found, features, finished)
    return len(found)


def nearest_photos(
    image: Path, model: str, among: Path, to: Path, *, count: int, experiment: Path, settings: Mapping[str, Any]
) -> list[tuple[str, float]]:
    """Draw the photos of a folder that are nearest to one, by cosine of features. Returns their names and cosines.

    Raises:
        ValueError: a file that is no .png, no images, an image that cannot be decoded, or an unknown model.
    """
    from attndistill.figures.neighbours import neighbours_picture

    if to.suffix != ".png":
        raise ValueError(f"{shown(to)}: the name does not end in .png")
    if image.is_dir():
        raise ValueError(f"{shown(image)} is a folder; allowed: one image")
    _check_room(to)
    finished = open_finished(model, experiment, settings)
    asked, photos = _files(image, finished), _files(among, finished)
    similarity = unit(_features(finished, photos)) @ unit(_features(finished, asked))[0]
    itself = [(among / name).resolve() == image.resolve() for name in photos.names]
    order = [place for place in np.argsort(-similarity, kind="stable").tolist() if not itself[place]][:count]
    if not order:
        raise ValueError(f"{shown(among)} has no image but {shown(image)} itself; allowed: a folder with others")
    found = [(photos.names[place], float(similarity[place])) for place in order]
    pictures = _pictures(finished, photos, order)
    drawn = neighbours_picture(
        (image.name, _pictures(finished, asked, [0])[0]),
        [(name, cosine, picture) for (name, cosine), picture in zip(found, pictures, strict=True)],
    )
    with replacing(to) as beside:
        beside.write_bytes(drawn)
    return found


def _files(place: Path, finished: Finished) -> FileImages:
    data = finished.config.data
    return FileImages(place, max_pixels=data.max_pixels, skip_bad=data.on_bad_image == "skip")


def _features(finished: Finished, images: FileImages) -> NDArray[np.float32]:
    execution, config = execution_of(finished.config, "embed"), finished.config
    rows = []
    size = execution.evaluation_batch_size
    with progress("embed", len(images), "images") as update:
        for start in range(0, len(images), size):
            chosen = np.arange(start, min(start + size, len(images)), dtype=np.int64)
            rows.append(
                embed_split(
                    finished.backbone,
                    images,
                    finished.views,
                    crop_share=config.views.evaluation_crop,
                    batch_size=size,
                    device=execution.device,
                    indices=chosen,
                ).features
            )
            update(int(chosen[-1]) + 1)
    return np.concatenate(rows)


def _pictures(finished: Finished, images: FileImages, places: list[int]) -> NDArray[np.uint8]:
    """The evaluation views as a person sees them: (K, S, S, 3)."""
    from attndistill.data.views import evaluation_boxes

    chosen = np.array(places, np.int64)
    boxes = evaluation_boxes(*images.sizes(chosen), finished.config.views.evaluation_crop)
    crops = images.crops(chosen, boxes, finished.image_size)
    found: NDArray[np.uint8] = (crops * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return found


def _write_parquet(path: Path, images: FileImages, features: NDArray[np.float32], finished: Finished) -> None:
    import pyarrow
    from pyarrow import parquet

    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(features.reshape(-1)), features.shape[1])
    table = pyarrow.table({"name": pyarrow.array(list(images.names)), "feature": values})
    parquet.write_table(table.replace_schema_metadata({"model": finished.name}), path)


def _check_room(to: Path) -> None:
    """Before anything is computed: the file can be made there."""
    if to.is_dir() or not to.parent.is_dir():
        raise ValueError(f"{shown(to)}: {'it is a folder' if to.is_dir() else 'its folder does not exist'}")

"""A teacher's answers on disk: what their manifest says, and arrays that are what it says.

manifest.json   one type for writer and reader
<field>.npy     a field of `core.features.Features` in float16: view, image, then the shape of one answer
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from attndistill.core.artifacts import first_problem, read_json

FORMAT: Literal["attndistill-targets/1"] = "attndistill-targets/1"
ALWAYS = ("cls_token", "log_attention")
_EXTRA = ("layer_attention", "value_norms", "patch_tokens")
LOGARITHMS = ("log_attention", "layer_attention")
_SUM_TOLERANCE = 0.02  # of a row's probabilities, each known to 11 bits of its logarithm
_AGAIN = "remove the folder and run `targets` again"


class Manifest(BaseModel):
    """What manifest.json says of a cache."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["attndistill-targets/1"]
    cached: Literal[True]
    views: PositiveInt
    images: PositiveInt
    heads: PositiveInt
    grid: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    identity: dict[str, str]
    bytes_per_view_and_image: PositiveInt

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Raises ValueError: no manifest, one of a run without cache, or one that is damaged."""
        plain = read_json(directory / "manifest.json")
        if isinstance(plain, dict) and plain.get("cached") is False:
            raise ValueError(f"{directory} holds no cached targets: run `targets` with targets.cache on")
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            problem = first_problem(error)
            raise ValueError(f"{directory / 'manifest.json'} describes no targets ({problem}): {_AGAIN}") from None


def open_answers(directory: Path, manifest: Manifest) -> dict[str, NDArray[np.float16]]:
    """Every array of a cache, mapped, by field. Raises ValueError where one is not what the manifest describes."""
    found = {field: directory / f"{field}.npy" for field in (*ALWAYS, *_EXTRA)}
    stores = {field: _mapped(path) for field, path in found.items() if field in ALWAYS or path.exists()}
    width = (0, *stores["cls_token"].shape)[-1]
    depth = (0, *stores["layer_attention"].shape)[3:4] if "layer_attention" in stores else ()
    shapes = shapes_of(manifest.heads, manifest.grid, width, sum(depth))
    for field, store in stores.items():
        wanted = (manifest.views, manifest.images, *shapes[field])
        if store.shape != wanted or store.dtype != np.float16:
            raise ValueError(f"{found[field]} is {store.shape} {store.dtype}, described as {wanted} float16: {_AGAIN}")
    each = sum(store.nbytes for store in stores.values()) // (manifest.views * manifest.images)
    if each != manifest.bytes_per_view_and_image:
        wanted_bytes = manifest.bytes_per_view_and_image
        raise ValueError(f"{directory} holds {each} bytes a view and image, described as {wanted_bytes}: {_AGAIN}")
    return stores


def _mapped(path: Path) -> Any:
    try:
        store = np.lib.format.open_memmap(path, mode="r")
        whole = path.stat().st_size == store.offset + store.nbytes and store.flags.c_contiguous
    except Exception as error:  # numpy raises many kinds for a broken header
        raise ValueError(f"{path} is missing or damaged ({type(error).__name__}): {_AGAIN}") from None
    if not whole:
        raise ValueError(f"{path} has not the size that it says: {_AGAIN}")
    return store


def check_values(directory: Path, stores: Mapping[str, NDArray[np.float16]], view: int, images: slice) -> None:
    """Raise ValueError for values that no teacher answers: not finite, a length below 0, probabilities of no sum 1."""
    for field, store in stores.items():
        values = store[view, images].astype(np.float32)
        good = np.isfinite(values).all()
        if good and field in LOGARITHMS:
            good = (np.abs(np.exp(values).sum(axis=-1) - 1) < _SUM_TOLERANCE).all()
        if not good or (field == "value_norms" and values.min() < 0):
            where = f"view {view}, image {images.start}" + (f" to {images.stop - 1}" if len(values) > 1 else "")
            raise ValueError(f"{directory / f'{field}.npy'} holds what no teacher answers ({where}): {_AGAIN}")


def shapes_of(heads: int, grid: Sequence[int], width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """The shape of a teacher's answer for one image, by field."""
    patches = grid[0] * grid[1]
    return {
        "cls_token": (width,),
        "log_attention": (heads, 1 + patches),
        "layer_attention": (depth, heads, 1 + patches),
        "value_norms": (heads, 1 + patches),
        "patch_tokens": (patches, width),
    }

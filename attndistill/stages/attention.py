"""Stage 6: where a model looks, beside its teacher (Figs. 9-11), and how far apart the two are.

The maps of every pictured image are kept (maps.npz), so that the report can show all methods side by side; the images
of `attention.images` are marked there as featured.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attndistill.core.artifacts import replacing, replacing_directory, write_json
from attndistill.core.measurement import summarise
from attndistill.core.progress import progress
from attndistill.data.loading import evaluation_batches
from attndistill.data.store import ImageSet, read_manifest
from attndistill.data.views import evaluation_boxes
from attndistill.figures.attention import AttentionMaps, attention_panel, png_bytes
from attndistill.figures.export import export_by_class, safe_names
from attndistill.losses.aggregation import geometric_mean
from attndistill.losses.interpolation import interpolate_attention
from attndistill.models.families import Backbone
from attndistill.models.readout import read_features
from attndistill.models.storage import load_model
from attndistill.stages.context import Context


@dataclass(frozen=True)
class Maps:
    """Class-token attention of one model over a split: per head (N, H, 1+P), aggregated (N, 1+P), log-probabilities."""

    heads: Tensor
    aggregated: Tensor
    grid: tuple[int, int]

    def over_patches(self, rows: Tensor) -> NDArray[np.float32]:
        """Probabilities over the patch grid, the class token cut off."""
        patches: NDArray[np.float32] = rows[..., 1:].exp().unflatten(-1, self.grid).numpy().astype(np.float32)
        return patches


def attention(context: Context) -> None:
    """Write outputs/<experiment>/attention/<item> (maps, panels, class folders) and the KL distance over seeds."""
    test = context.images("test")
    _check_images(context, len(test))
    teacher = _look(context, context.teacher_weights, test)
    is_teacher = context.item == "teacher"
    distances: dict[int, Tensor] = {}
    first: Maps | None = None
    if not is_teacher:
        for seed in context.seeds:
            student = _look(context, context.layout.weights(context.item, seed), test)
            distances[seed] = _distance(context, teacher, student)
            first = first or student
    _write_pictures(context, test, teacher, first, distances)
    manifest = read_manifest(context.layout.data)
    value: dict[str, Any] = {
        "model": context.item,
        "class_list_sha256": manifest["class_list_sha256"],
        "data_digest": manifest["digest"],
    }
    if distances:
        means = [float(distance.double().mean()) for distance in distances.values()]
        value["kl_to_teacher"] = summarise(means, list(distances), _protocol(context))
        for seed, mean in zip(distances, means, strict=True):
            context.journal.metrics({"kl_to_teacher": mean}, step=seed)
    path = context.layout.result("attention", f"{context.item}.json")
    write_json(path, value)
    context.journal.artifact(path, folder="results")
    context.journal.artifact(context.layout.attention(context.item) / "panels", folder="attention")


def _check_images(context: Context, count: int) -> None:
    beyond = [index for index in context.config.attention.images if index >= count]
    if beyond:
        raise ValueError(f"attention.images {beyond[0]}: the test split has {count} images; allowed: 0 to {count - 1}")


def _protocol(context: Context) -> str:
    return f"kl/aag-T{context.config.attention.temperature:g}-v1"


def _look(context: Context, weights: Path, images: ImageSet) -> Maps:
    backbone, _ = load_model(weights)
    backbone.to(context.device)
    rows = []
    batches = evaluation_batches(
        images,
        context.recipe,
        crop_share=context.config.views.evaluation_crop,
        batch_size=context.config.runtime.evaluation_batch_size,
    )
    with torch.no_grad():
        for batch in batches:
            found = read_features(backbone, batch.images.to(context.device)).log_attention
            assert found is not None
            rows.append(found.cpu())
    heads = torch.cat(rows)
    return Maps(heads, _aggregate(context)(heads)[:, 0], _grid(backbone))


def _grid(backbone: Backbone) -> tuple[int, int]:
    rows, columns = backbone.patch_embed.grid_size
    return rows, columns


def _aggregate(context: Context) -> Any:
    return partial(geometric_mean, temperature=context.config.attention.temperature)


def _distance(context: Context, teacher: Maps, student: Maps) -> Tensor:
    """KL(teacher || student) of the aggregated maps on the student's grid, per image, in nats."""
    on_grid = interpolate_attention(teacher.heads, teacher.grid, student.grid)
    wanted = _aggregate(context)(on_grid)[:, 0]
    distance: Tensor = (wanted.exp() * (wanted - student.aggregated)).sum(dim=-1)
    return distance


def _write_pictures(
    context: Context, test: ImageSet, teacher: Maps, student: Maps | None, distances: dict[int, Tensor]
) -> None:
    class_names = read_manifest(context.layout.data)["class_names"]
    classes = [class_names[label] for label in test.labels]
    kl = next(iter(distances.values())).numpy() if distances else np.zeros(len(test), dtype=np.float32)
    featured = context.config.attention.images
    by_class = _first_per_class(test.labels, context.config.attention.images_per_class)
    pictured = [*featured, *(index for index in by_class if index not in featured)]
    pixels = dict(zip(pictured, _pictures(context, test, pictured), strict=True))

    def panel(index: int) -> NDArray[np.uint8]:
        students = [] if student is None else [_maps(context.item, student, index, float(kl[index]))]
        caption = f"{test.names[index]} ({classes[index]})"
        return attention_panel(pixels[index], _maps("teacher", teacher, index, None), students, caption=caption)

    with (
        replacing_directory(context.layout.attention(context.item)) as directory,
        progress(f"attention {context.item}", len(by_class), "pictures") as update,
    ):
        _write_maps(context, directory, pixels, pictured, test, classes, teacher, student, kl)
        (directory / "panels").mkdir()
        for index, name in zip(featured, safe_names([test.names[index] for index in featured]), strict=True):
            (directory / "panels" / f"{name}.png").write_bytes(png_bytes(panel(index)))

        def counted(position: int) -> NDArray[np.uint8]:
            update(position + 1)
            return panel(by_class[position])

        names = [test.names[index] for index in by_class]
        export_by_class(directory / "by_class", [classes[index] for index in by_class], names, counted)


def _write_maps(
    context: Context,
    directory: Any,
    pixels: dict[int, NDArray[np.uint8]],
    chosen: list[int],
    test: ImageSet,
    classes: list[str],
    teacher: Maps,
    student: Maps | None,
    kl: NDArray[np.float32],
) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "images": np.stack([pixels[index] for index in chosen]),
        "names": np.array([test.names[index] for index in chosen]),
        "classes": np.array([classes[index] for index in chosen]),
        "teacher_aggregated": teacher.over_patches(teacher.aggregated[chosen]),
        "teacher_heads": teacher.over_patches(teacher.heads[chosen]),
        "kl": kl[chosen].astype(np.float32),
        "featured": np.isin(chosen, context.config.attention.images),
    }
    if student is not None:
        arrays["student_aggregated"] = student.over_patches(student.aggregated[chosen])
        arrays["student_heads"] = student.over_patches(student.heads[chosen])
    with replacing(directory / "maps.npz") as beside:
        np.savez(beside, **arrays)  # type: ignore[arg-type]


def _maps(name: str, maps: Maps, index: int, kl: float | None) -> AttentionMaps:
    return AttentionMaps(name, maps.over_patches(maps.aggregated[index]), maps.over_patches(maps.heads[index]), kl)


def _pictures(context: Context, test: ImageSet, indices: list[int]) -> NDArray[np.uint8]:
    """The evaluation views as a person sees them: (K, S, S, 3) uint8."""
    chosen = np.array(indices, dtype=np.int64)
    boxes = evaluation_boxes(*test.sizes(chosen), context.config.views.evaluation_crop)
    crops = test.crops(chosen, boxes, context.config.views.image_size)
    return (crops * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _first_per_class(labels: NDArray[np.int64], most: int | None) -> list[int]:
    kept: list[int] = []
    for label in np.unique(labels):
        kept += np.flatnonzero(labels == label)[:most].tolist()
    return sorted(kept)

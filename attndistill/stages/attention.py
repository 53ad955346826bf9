"""Where a model looks, beside its teacher (Figs. 9-11), and how far apart the two are.

The teacher's item comes first. It keeps the pictured images, its maps of them and its attention over the whole test
split, once; every other item reads those and adds its own. Images of `attention.images` are marked as featured.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.stages.declaration import Item, Stage
from attndistill.stages.layout import Layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attndistill.data.store import ImageSet
    from attndistill.evaluations.attention import Maps
    from attndistill.results import StudentMaps, TeacherMaps
    from attndistill.stages.context import Context

TEACHER_ROWS = "log_attention.npy"  # of the whole test split, (N, H, 1+P) float32
IDENTITY = "identity.json"  # of which teacher, data and views


def run(context: "Context") -> None:
    """Write outputs/attention/<item> (maps, panels, class folders) and the KL distance over seeds."""
    from attndistill.core.artifacts import replacing_directory
    from attndistill.data.manifest import read_manifest
    from attndistill.evaluations.attention import attention, protocol
    from attndistill.results import AttentionFile, Measurement

    temperature, test = context.config.attention.temperature, context.images("test")
    manifest, name = read_manifest(context.layout.data), context.item.name
    figures: dict[str, Any] = {}
    with replacing_directory(context.layout.attention(name)) as directory:
        if name == "teacher":
            write_teacher(context, directory, test, manifest["class_names"])
        else:
            teacher = teacher_maps(context.layout.attention("teacher"), context)
            students = [look_at(context, context.layout.weights(name, seed), test) for seed in context.seeds]
            distances = [attention(teacher, student, temperature=temperature) for student in students]
            write_student(context, directory, students[0], distances[0].numpy())
            means = [float(distance.double().mean()) for distance in distances]
            figures["kl_to_teacher"] = Measurement.of(means, context.seeds, protocol(temperature))
            context.journal.figures({"kl_to_teacher": dict(zip(context.seeds, means, strict=True))})
    path = context.layout.result("attention", f"{name}.json")
    digests = {key: manifest[key] for key in ("class_list_sha256",)} | {"data_digest": manifest["digest"]}
    AttentionFile(model=name, **digests, **figures).write(path)
    context.journal.artifact(path, folder="results")
    context.journal.artifact(context.layout.attention(name) / "panels", folder="attention")


def look_at(context: "Context", weights: Path, images: "ImageSet") -> "Maps":
    """The maps of a stored model."""
    from attndistill.evaluations.attention import look
    from attndistill.models.storage import load_model

    return look(
        load_model(weights)[0],
        images,
        context.views,
        crop_share=context.config.views.evaluation_crop,
        batch_size=context.execution.evaluation_batch_size,
        device=context.execution.device,
    )


def teacher_maps(directory: Path, context: "Context") -> "Maps":
    """What the teacher's item kept of the whole split. Raises ValueError when it is missing or broken."""
    import torch

    from attndistill.core.artifacts import read_json
    from attndistill.data.arrays import read_array
    from attndistill.evaluations.attention import Maps

    identity, wanted = directory / IDENTITY, context.targets_identity
    if read_json(identity) != wanted:
        raise ValueError(
            f"{directory} is of another teacher, data or views: run `attndistill attention --model teacher` again"
        )
    heads = torch.from_numpy(read_array(directory / TEACHER_ROWS))
    side = context.config.views.image_size // context.config.teacher.patch_size
    if heads.ndim != 3 or heads.shape[2] != 1 + side**2 or heads.dtype != torch.float32:
        raise ValueError(
            f"{directory / TEACHER_ROWS}: {heads.dtype} {tuple(heads.shape)}; allowed: float32 (N, H, 1+P)"
        )
    return Maps(heads, (side, side))


def write_teacher(
    context: "Context", directory: Path, test: "ImageSet", class_names: Sequence[str], featured: Sequence[int] = ()
) -> None:
    """The pictured images, the teacher's maps of them, and its attention over the whole split."""
    import numpy as np

    from attndistill.core.artifacts import write_json
    from attndistill.data.splits import first_of_classes
    from attndistill.results import TeacherMaps

    featured = featured or context.config.attention.images or first_of_classes(test.labels)
    maps = look_at(context, context.teacher_weights, test)
    np.save(directory / TEACHER_ROWS, maps.heads.numpy())
    write_json(directory / IDENTITY, context.targets_identity)
    by_class = _first_per_class(test.labels, context.config.attention.images_per_class)
    pictured = [*featured, *(index for index in by_class if index not in featured)]
    shown = TeacherMaps(
        images=_pictures(context, test, pictured),
        names=np.array([test.names[index] for index in pictured]),
        classes=np.array([class_names[test.labels[index]] for index in pictured]),
        indices=np.array(pictured, dtype=np.int64),
        featured=np.isin(pictured, featured),
        **_arrays(maps.chosen(pictured), context.config.attention.temperature),
    )
    shown.write(directory / "maps.npz")
    _draw(context, directory, shown, None)


def write_student(context: "Context", directory: Path, student: "Maps", kl: "NDArray[np.float32]") -> None:
    """A student's maps of the images that the teacher's item pictured, and their pictures."""
    from attndistill.results import StudentMaps, TeacherMaps

    shared = TeacherMaps.read(context.layout.attention("teacher") / "maps.npz")
    pictured = shared.indices.tolist()
    maps = _arrays(student.chosen(pictured), context.config.attention.temperature)
    own = StudentMaps(**maps, kl=kl[pictured].astype("float32"))
    own.write(directory / "maps.npz")
    _draw(context, directory, shared, own)


def _arrays(maps: "Maps", temperature: float) -> dict[str, Any]:
    return {
        "aggregated": maps.over_patches(maps.aggregated(temperature)),
        "heads": maps.over_patches(maps.heads),
    }


def _draw(context: "Context", directory: Path, shared: "TeacherMaps", student: "StudentMaps | None") -> None:
    """panels/ of the featured images, by_class/ of the first of every class."""
    import numpy as np

    from attndistill.core.progress import progress
    from attndistill.figures.attention import AttentionMaps, attention_panel, png_bytes
    from attndistill.figures.export import export_by_class, safe_names

    names, classes = shared.names.tolist(), shared.classes.tolist()

    def panel(place: int) -> "NDArray[np.uint8]":
        teacher = AttentionMaps("teacher", shared.aggregated[place], shared.heads[place], None)
        students = []
        if student is not None:
            found = (student.aggregated[place], student.heads[place], float(student.kl[place]))
            students.append(AttentionMaps(context.item.name, *found))
        return attention_panel(shared.images[place], teacher, students, caption=f"{names[place]} ({classes[place]})")

    featured = np.flatnonzero(shared.featured).tolist()
    most = context.config.attention.images_per_class
    labels = np.array([sorted(set(classes)).index(kind) for kind in classes])
    order = np.argsort(shared.indices, kind="stable")
    by_class = sorted(
        (int(place) for kind in set(labels.tolist()) for place in order[labels[order] == kind][:most]),
        key=lambda place: int(shared.indices[place]),
    )
    (directory / "panels").mkdir()
    for place, name in zip(featured, safe_names([names[place] for place in featured]), strict=True):
        (directory / "panels" / f"{name}.png").write_bytes(png_bytes(panel(place)))
    with progress(f"attention {context.item.name}", len(by_class), "pictures") as update:

        def counted(position: int) -> "NDArray[np.uint8]":
            update(position + 1)
            return panel(by_class[position])

        kinds, called = ([listed[place] for place in by_class] for listed in (classes, names))
        export_by_class(directory / "by_class", kinds, called, counted)


def _pictures(context: "Context", test: "ImageSet", indices: list[int]) -> "NDArray[np.uint8]":
    """The evaluation views as a person sees them: (K, S, S, 3) uint8."""
    import numpy as np
    import torch

    from attndistill.data.views import evaluation_boxes

    chosen = np.array(indices, dtype=np.int64)
    boxes = evaluation_boxes(*test.sizes(chosen), context.config.views.evaluation_crop)
    crops = test.crops(chosen, boxes, context.config.views.image_size)
    return (crops * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _first_per_class(labels: "NDArray[np.int64]", most: int | None) -> list[int]:
    import numpy as np

    kept: list[int] = []
    for label in np.unique(labels):
        kept += np.flatnonzero(labels == label)[:most].tolist()
    return sorted(kept)


def _inputs(layout: Layout, item: Item) -> list[Path]:
    read = layout.model("teacher") if item.name == "teacher" else layout.attention("teacher")
    own = [] if item.name == "teacher" else [layout.model("teacher"), layout.model(item.name)]
    return [layout.data, read, *own]


STAGE = Stage(
    "attention",
    "attention maps beside the teacher's, KL between them",
    run,
    lambda item: ("seeds", "teacher_seed", "views", "attention"),
    _inputs,
    lambda layout, item: [layout.attention(item.name), layout.result("attention", f"{item.name}.json")],
    over="model",
    estimate="attndistill.costs.evaluation:attention",
)

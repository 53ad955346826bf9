"""Attention distillation from Python: images, a teacher and a student in; models, features and figures out.

No project folder is needed: settings are those of `params.yaml`, under the same dotted keys. The stages call the same
functions, so the same settings and seeds give the same bytes.

    teacher = attndistill.load_teacher("dino_deitsmall8_pretrain.pth")
    student = attndistill.distil("photos/", teacher, "vit_tiny", settings={"distill.recipe.epochs": 10})
    features = attndistill.embed(student, "photos/")
    figures = attndistill.evaluate(student, train, test)

N images, S side of a view in pixels, D width of a feature, P the projector.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray

from attndistill.config import Config, nested, read_yaml, resolve
from attndistill.core.artifacts import digest_of, read_json, write_json
from attndistill.core.progress import progress
from attndistill.core.words import shown
from attndistill.data.files import FileImages
from attndistill.data.preparation import prepare
from attndistill.data.sources import open_source
from attndistill.data.splits import stratified_subset
from attndistill.data.store import ArrayImages, ImageSet, open_split
from attndistill.data.views import ViewRecipe
from attndistill.distillation import build_objective, distil_student, open_teaching
from attndistill.evaluations import EVALUATIONS, Result, evaluations
from attndistill.evaluations.embedding import embed_split
from attndistill.evaluations.judged import Judged
from attndistill.experiments import DEFAULTS
from attndistill.models.families import Backbone
from attndistill.models.projector import Student
from attndistill.models.sizes import PRESETS
from attndistill.models.teachers.fitting import Wanted
from attndistill.models.teachers.loading import load_teacher as _load
from attndistill.runs import Execution
from attndistill.targets import LiveTeacher, identity_in, write_targets
from attndistill.training.checkpoint import Checkpoint

__all__ = ["array_images", "build_objective", "configure", "distil", "embed", "evaluate", "load_teacher"]

Images = ImageSet | UInt8[np.ndarray, "N H W 3"] | str | Path


def configure(settings: Mapping[str, Any] | None = None) -> Config:
    """The configuration of these settings, laid over the defaults.

    Args:
        settings: dotted key -> value, as on the command line ("distill.lambda": 0.3).

    Raises:
        ValueError: an unknown key, a wrong type or an impossible combination, one line.
    """
    return resolve([read_yaml(DEFAULTS), nested(settings or {})])


def load_teacher(path: str | Path, *, image_size: int | None = None, **wanted: Any) -> Backbone:
    """A released checkpoint, or a model stored by this package; frozen, in evaluation mode.

    Args:
        path: a safetensors or torch file, or a folder with model.json. Nothing in it is run.
        image_size: S, where it is not the one that the model was trained for (with `resize_positions=True`).
        wanted: `format`, `half`, `timm_name`, `num_heads`, `sha256`, `resize_positions` (docs/teachers.md).

    Raises:
        ValueError: a broken, hostile or unknown file, tensors missing or left over, positions of another size.
    """
    return _load(Path(path), Wanted(image_size=image_size, **wanted)).model


def array_images(
    images: UInt8[np.ndarray, "N H W 3"], labels: Int[np.ndarray, " N"] | None = None, names: Sequence[str] = ()
) -> ImageSet:
    """Images in memory as a set that views are cut from.

    Args:
        images: RGB, uint8.
        labels: class numbers from 0; zeros where nobody needs them.
        names: of the images; their positions where they have none.

    Raises:
        ValueError: another type or shape, or as many labels or names as images are needed.
    """
    count = len(images)
    found = np.zeros(count, np.int64) if labels is None else np.asarray(labels, np.int64)
    return ArrayImages(images, found, list(names) or [str(place) for place in range(count)])


def distil(
    images: Images,
    teacher: Backbone | str | Path,
    student: str | Mapping[str, Any] = "vit_tiny",
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    work: str | Path | None = None,
) -> Student:
    """Distil a teacher into a student, without labels (paper sec. 3).

    Args:
        images: training images: a set, an array, or a folder of photos. Of a folder, as in the stages, the share
            `data.set.held_out` is left for judging.
        teacher: of `load_teacher`, or its path.
        student: a named size (Table 7), then of the teacher's patch size, or keyword arguments of `build_vit`.
        settings: dotted keys of `params.yaml`; `views.image_size` is the teacher's unless given.
        seed: of the student's weights and of the order of images.
        work: folder for the teacher's answers and the resume checkpoint: a call that was killed is resumed by the same
            call. None: a temporary one.

    Returns:
        The student: `.backbone` (a timm VisionTransformer) and `.projector` (P), in evaluation mode.

    Raises:
        ValueError: settings that are refused, a folder without photos or with one smaller than a patch, fewer images
            than a batch, a `work` of another run.
        FloatingPointError: a loss that is not finite.
    """
    teacher = load_teacher(teacher) if isinstance(teacher, str | Path) else teacher
    of_folder = {"data.set.name": "photos", "data.set.root": str(images)} if isinstance(images, str | Path) else {}
    config = configure({**_sizes(teacher, student), **of_folder, **(settings or {})})
    views, execution = ViewRecipe.of(config.views), execution_of(config, "distil")
    with ExitStack() as stack:
        folder = Path(work or stack.enter_context(tempfile.TemporaryDirectory()))
        if isinstance(images, str | Path):
            images = _prepared(config, folder)
        images = array_images(images) if isinstance(images, np.ndarray) else images
        identity = _identity(teacher, images, views)
        targets = folder / "targets"
        if config.targets.cache and not (targets / "manifest.json").exists():
            answers = identity_in(config.targets.precision, identity)
            write_targets(
                LiveTeacher(teacher, execution.device, config.targets.extra, config.targets.precision),
                images,
                views,
                targets,
                unfinished=folder / "unfinished" / digest_of({**answers, "count": config.targets.views})[:16],
                identity=answers,
                views=config.targets.views,
                verify=config.targets.verify,
                batch_size=execution.evaluation_batch_size,
                processes=execution.processes,
                workers=execution.workers,
            )
        teach = open_teaching(teacher, config.distill, config.targets, targets, identity, execution.device)
        run = digest_of({"configuration": config.digest("student", "views", "targets", "distill"), "seed": seed})
        checkpoint = Checkpoint(folder / f"seed-{seed}", digest_of([run, identity]))
        trained = distil_student(
            teacher,
            teach,
            images,
            views,
            config.student.plain(),
            config.distill,
            execution,
            checkpoint,
            seed=seed,
            stored_views=config.targets.views,
        )
    found: Student = trained.model
    return found.eval()


def embed(
    model: Backbone | Student,
    images: Images,
    *,
    settings: Mapping[str, Any] | None = None,
    layer: int = 0,
) -> Float[np.ndarray, "N D"]:
    """Class tokens of images on the evaluation view (a central crop of `views.evaluation_crop`), float32.

    Args:
        model: a teacher or a student.
        images: N of them: a set, an array, or a folder of photos, in the order of their names.
        settings: dotted keys of `views`, `data` and `runtime`.
        layer: of a student, the feature after this layer of P; 0 is before P, the one to use.

    Raises:
        ValueError: settings that are refused, or a layer that P does not have.
    """
    backbone, projector = _halves(model)
    config = configure({**fitting(backbone), **(settings or {})})
    images = array_images(images) if isinstance(images, np.ndarray) else images
    if isinstance(images, str | Path):
        skip = config.data.on_bad_image == "skip"
        images = FileImages(Path(images), max_pixels=config.data.max_pixels, skip_bad=skip)
    execution = execution_of(config, "embed")
    return embed_split(
        backbone,
        images,
        ViewRecipe.of(config.views),
        crop_share=config.views.evaluation_crop,
        batch_size=execution.evaluation_batch_size,
        device=execution.device,
        projector=projector,
        layer=layer,
    ).features


def evaluate(
    model: Backbone | Student,
    train: ImageSet,
    test: ImageSet,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    work: str | Path | None = None,
    teacher: Backbone | None = None,
) -> dict[str, Result]:
    """Judge a model by every evaluation that the section `probe` turns on, each by its named protocol.

    Args:
        model: a teacher or a student.
        train: labelled images: the bank of k-NN, what the classifiers are fitted to. Their hyper-parameters are chosen
            on a part of it (`data.validation_fraction`), never on test.
        test: labelled images that the figures are of.
        settings: dotted keys of `probe`, `data`, `views` and `runtime`.
        seed: of what an evaluation draws.
        work: folder for resume checkpoints of evaluations that train; None: a temporary one.
        teacher: of a student, for evaluations that compare the two (`probe.agreement`).

    Returns:
        Name of the evaluation -> its figures (top-1 and top-5 in percent), protocol, what was chosen.

    Raises:
        ValueError: settings that are refused, classes of test that train does not have, or a teacher that is wanted.
    """
    backbone, projector = _halves(model)
    config = configure({**fitting(backbone), **(settings or {})})
    labels, data = np.asarray(train.labels), config.data
    missing = sorted(set(np.asarray(test.labels).tolist()) - set(labels.tolist()))
    if missing:
        raise ValueError(f"test has images of class {missing[0]}, train has none; allowed: classes of train")
    chosen = config.probe.chosen()
    paired = next((name for name in chosen if evaluations()[name].on == "pair"), None)
    if paired and teacher is None:
        raise ValueError(f"probe.{paired} compares a student with its teacher; allowed: evaluate(..., teacher=...)")
    with ExitStack() as stack:
        folder = Path(work or stack.enter_context(tempfile.TemporaryDirectory()))
        judged = Judged(
            backbone=backbone,
            projector=projector,
            layer=config.probe.projector_layer if projector else 0,
            train=train,
            test=test,
            validation=stratified_subset(
                labels, data.validation_fraction, data.validation_seed, "validation", leave_one=True
            ),
            labelled=None,
            validation_fraction=data.validation_fraction,
            validation_seed=data.validation_seed,
            classes=int(labels.max()) + 1,
            views=ViewRecipe.of(config.views),
            crop_share=config.views.evaluation_crop,
            seed=seed,
            inputs={
                "model": _weights_digest(backbone),
                "data": _data_digest(train),
                "labels": digest_of(labels.tolist()),
            },
            execution=execution_of(config, "evaluate"),
            checkpoint=lambda inputs: _checkpoint(folder, {**inputs, "seed": str(seed)}),
        )
        given: dict[str, Callable[[], tuple[Any, ...]]] = {
            "features": lambda: (judged.features,),
            "model": lambda: (judged,),
            "pair": lambda: (judged, replace(judged, backbone=teacher, projector=None, layer=0)),
        }
        return {
            name: EVALUATIONS.bind(name, options)(*given[evaluations()[name].on]()) for name, options in chosen.items()
        }


def _checkpoint(folder: Path, identity: Mapping[str, str]) -> Checkpoint:
    """Of one of the runs that an evaluation trains."""
    digest = digest_of(dict(identity))
    return Checkpoint(folder / digest[:16], digest)


def _prepared(config: Config, folder: Path) -> ImageSet:
    """The training split of the photos that `data.set` names, prepared in a folder; again only where they changed.

    Raises:
        ValueError: no photos, bad ones, or one smaller than a patch of the student.
    """
    options, patch = config.data, config.student.patch_size
    source = open_source(options.set.name, options.set.options())
    listed = [[split.names, [_state(split, name) for name in split.names]] for split in source.splits.values()]
    wanted, record = digest_of([options.plain(), listed]), folder / "photos.json"
    if not (record.exists() and read_json(record) == wanted and (folder / "data").exists()):
        sizes = {name: len(split.labels) for name, split in source.splits.items()}
        with progress("prepare", sum(sizes.values()), "images") as update:
            prepare(
                source,
                folder / "data",
                validation_fraction=options.validation_fraction,
                split_seed=options.validation_seed,
                on_bad_image=options.on_bad_image,
                max_pixels=options.max_pixels,
                progress=lambda split, done, _: update(done + (sizes["train"] if split == "test" else 0)),
            )
        write_json(record, wanted)
    images = open_split(folder / "data", "train")
    check_sides(images, patch)
    return images


def _state(split: Any, name: str) -> list[int]:
    """What tells that a file changed; nothing of one that cannot be looked at, which `prepare` names."""
    try:
        status = (split.root / name).stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def check_sides(images: ImageSet, patch_size: int) -> None:
    """Raise ValueError for an image with a side smaller than a patch: enlarged, it would show nothing."""
    sides = np.minimum(*images.sizes(np.arange(len(images), dtype=np.int64)))
    small = int(sides.argmin())
    if sides[small] < patch_size:
        raise ValueError(
            f"{shown(images.names[small])} has a side of {sides[small]} px, smaller than a patch; allowed: "
            f"{patch_size} px or more"
        )


def execution_of(config: Config, label: str) -> Execution:
    """How work is done in this process: the section `runtime`."""
    wanted = config.runtime.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)
    return Execution(
        device=device,
        workers=config.runtime.workers,
        micro_batch_size=config.runtime.micro_batch_size,
        evaluation_batch_size=config.runtime.evaluation_batch_size,
        checkpoint_seconds=config.runtime.checkpoint_seconds,
        label=label,
    )


def _halves(model: Backbone | Student) -> tuple[Any, Any]:
    return (model.backbone, model.projector) if isinstance(model, Student) else (model, None)


def _image_size(backbone: Any) -> int:
    return int(backbone.patch_embed.img_size[0])


def fitting(backbone: Any) -> dict[str, Any]:
    """Settings under which the configuration's images, teacher and student fit a model; the two are not read."""
    sizes, size = _described(backbone), {"views.image_size": _image_size(backbone)}
    return size | {f"{half}.{name}": value for half in ("teacher", "student") for name, value in sizes.items()}


def _described(backbone: Any) -> dict[str, Any]:
    return {
        "embed_dim": int(backbone.embed_dim),
        "depth": len(backbone.blocks),
        "num_heads": int(backbone.blocks[-1].attn.num_heads),
        "patch_size": int(backbone.patch_embed.patch_size[0]),
        "position": "learnable",
    }


def _sizes(teacher: Any, student: str | Mapping[str, Any]) -> dict[str, Any]:
    """The settings that teacher and student stand for."""
    found = {"views.image_size": _image_size(teacher), **{f"teacher.{k}": v for k, v in _described(teacher).items()}}
    if isinstance(student, str):
        if student not in PRESETS:
            raise ValueError(f"student {student!r}; allowed: {', '.join(PRESETS)}, or a mapping of sizes")
        student = {**PRESETS[student], "patch_size": _described(teacher)["patch_size"], "position": "learnable"}
    return {**found, **{f"student.{name}": value for name, value in student.items()}}


def _identity(teacher: Any, images: ImageSet, views: ViewRecipe) -> dict[str, str]:
    """What the teacher's answers depend on."""
    return {
        "teacher": _weights_digest(teacher),
        "data": _data_digest(images),
        "views": digest_of(views.describe()),
    }


def _weights_digest(model: torch.nn.Module) -> str:
    from attndistill.models.teachers.loading import _tensors_digest

    return _tensors_digest(dict(model.state_dict()))


def _data_digest(images: ImageSet) -> str:
    """Of names and sizes: enough to tell one folder's images from another's in a `work` that is used again."""
    everything: NDArray[np.int64] = np.arange(len(images), dtype=np.int64)
    return digest_of([list(images.names), [side.tolist() for side in images.sizes(everything)]])

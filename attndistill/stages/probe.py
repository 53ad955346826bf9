"""Features once, then every evaluation that is turned on, for a teacher, a baseline or a student, on one data set."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.stages.declaration import Item, Stage, data_sections, seeds
from attndistill.stages.layout import MODELS
from attndistill.stages.outside import Outside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attndistill.config import Config
    from attndistill.data.store import ImageSet
    from attndistill.evaluations import Result
    from attndistill.evaluations.judged import Judged
    from attndistill.results import Found
    from attndistill.stages.context import Context
    from attndistill.training.checkpoint import Checkpoint


def run(context: "Context") -> None:
    """Write results/probes/<item>.json: top-1 and top-5 of every evaluation over seeds, with protocols; and
    outputs/exhibits/<item>: the first seed's size, confusions, worst mistakes and nearest photos.

    Evaluations on features judge the same ones, computed once; the others follow. Those that ask for labels are left
    out where there are none, and the pre-trained models, which learned of no teacher, are compared with none.
    """
    from attndistill.core.progress import progress
    from attndistill.data.manifest import read_manifest
    from attndistill.evaluations import EVALUATIONS, evaluations
    from attndistill.models.vit import count_parameters
    from attndistill.results import ProbeFile

    context = replace(context, config=context.config.judging(context.item.data))
    images, test = context.images("train"), context.images("test")
    manifest, labelled = read_manifest(context.layout.prepared(context.item.data)), _labelled(context, images)
    chosen = _possible(context, manifest)
    found: dict[str, list[Result]] = {name: [] for name in chosen}
    checkpoints: list[Checkpoint] = []
    parameters = layer = 0
    paired = any(evaluations()[name].on == "pair" for name in chosen)
    teacher = _judged(context, "teacher", context.config.teacher_seed, images, test, labelled, []) if paired else None
    with progress(f"probe {context.item.label}", len(context.seeds), "models") as update:
        for done, seed in enumerate(context.seeds, start=1):
            judged = _judged(context, context.item.name, seed, images, test, labelled, checkpoints)
            parameters, layer = count_parameters(judged.backbone), judged.layer
            for name, options in chosen.items():
                on = evaluations()[name].on
                given = judged.features if on == "features" else judged
                result: Result = EVALUATIONS.bind(name, options)(given, *([teacher] if on == "pair" else []))
                found[name].append(result)
            if done == 1:
                _exhibit(context, judged, manifest, found, chosen)
            update(done)
    context.journal.figures(
        {
            evaluations()[name].key(figure): {
                seed: result.figures[figure] for seed, result in zip(context.seeds, results, strict=True)
            }
            for name, results in found.items()
            for figure in results[0].figures
        }
    )
    labels = _labels(context, images, labelled)
    path = context.layout.result("probes", f"{context.item.label}.json")
    ProbeFile(
        model=context.item.name,
        parameters=parameters,
        feature=(f"cls_token after projector layer {layer}" if layer else "cls_token before the projector")
        + context.config.views_of(context.item.data).told(),
        class_list_sha256=manifest["class_list_sha256"],
        data_digest=manifest["digest"],
        probes={name: _found(results, context.seeds, labels) for name, results in found.items()},
    ).write(path)
    context.journal.artifact(path, folder="results")
    for checkpoint in checkpoints:
        checkpoint.remove()


def _exhibit(
    context: "Context",
    judged: "Judged",
    manifest: dict[str, Any],
    found: "dict[str, list[Result]]",
    chosen: dict[str, dict[str, Any]],
) -> None:
    """Write what the report shows of a model beside its figures."""
    from attndistill.core.artifacts import replacing_directory
    from attndistill.evaluations import evaluations
    from attndistill.exhibits.making import write_exhibits

    knn = None
    if "knn" in found:
        result = found["knn"][0]
        knn = (result.protocol, int(result.chosen["k"]), float(chosen["knn"]["temperature"]))
    with replacing_directory(context.layout.exhibits(context.item.label)) as directory:
        write_exhibits(
            directory,
            judged,
            name=context.item.name,
            class_names=manifest["class_names"],
            labelled=manifest.get("labelled") is not False,
            features=any(evaluations()[name].on in ("features", "pair") for name in chosen),
            knn=knn,
        )


def _possible(context: "Context", manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The evaluations that are turned on and can be had of this model and these images."""
    from attndistill.evaluations import evaluations

    chosen = context.config.probe.chosen()
    unlabelled = [name for name in chosen if evaluations()[name].labels and manifest.get("labelled") is False]
    if unlabelled:
        print(f"probe: {', '.join(unlabelled)} left out: these images have no labels (agreement asks for none)")
    compared = context.item.name not in MODELS
    return {
        name: options
        for name, options in chosen.items()
        if name not in unlabelled and (compared or evaluations()[name].on != "pair")
    }


def _judged(
    context: "Context",
    name: str,
    seed: int,
    images: "ImageSet",
    test: "ImageSet",
    labelled: "NDArray[np.int64] | None",
    checkpoints: "list[Checkpoint]",
) -> "Judged":
    """One seed's model; the checkpoints of what is trained for its evaluations are added to `checkpoints`."""
    from attndistill.core.artifacts import digest_of
    from attndistill.data.manifest import read_manifest
    from attndistill.data.store import validation_indices
    from attndistill.evaluations.judged import Judged
    from attndistill.models.description import weights_digest
    from attndistill.models.storage import fit_image_size, load_model

    weights, directory = context.layout.weights(name, seed), context.layout.prepared(context.item.data)
    views = context.config.views_of(context.item.data)
    backbone, projector = load_model(weights)
    fit_image_size(backbone, views.image_size)
    manifest, data = read_manifest(directory), context.config.data_of(context.item.data)
    labels = "all" if labelled is None else digest_of(labelled.tolist())

    def checkpoint(inputs: Any) -> "Checkpoint":
        checkpoints.append(context.checkpoint(seed, inputs, "views", "probe"))
        return checkpoints[-1]

    return Judged(
        backbone=backbone,
        projector=projector,
        layer=context.config.probe.projector_layer if projector else 0,
        train=images,
        test=test,
        validation=validation_indices(directory),
        labelled=labelled,
        validation_fraction=data.validation_fraction,
        validation_seed=data.validation_seed,
        classes=len(manifest["class_names"]),
        views=context.views,
        crop_share=views.evaluation_crop,
        seed=seed,
        inputs={
            "model": weights_digest(weights),
            "data": manifest["digest"],
            "labels": labels,
            "views": digest_of(views.deciding()),
            **({"probe": digest_of(context.config.plain()["probe"])} if context.item.data else {}),
        },
        execution=context.execution,
        checkpoint=checkpoint,
    )


def _labelled(context: "Context", images: "ImageSet") -> "NDArray[np.int64] | None":
    """Places of the training images that keep their label; None: all of them.

    Raises:
        ValueError: a list that cannot be read, or a class without a label.
    """
    import numpy as np

    from attndistill.data.label_subsets import LeftOut, label_subset
    from attndistill.data.manifest import read_manifest

    options = context.config.probe.labels
    if options.fraction is None and options.list_file is None:
        return None
    kept = label_subset(
        images.names,
        np.asarray(images.labels),
        list_file=None if options.list_file is None else Path(options.list_file),
        fraction=options.fraction,
        seed=options.seed,
        left_out=LeftOut.of(read_manifest(context.layout.prepared(context.item.data))),
    )
    if kept.other_classes or kept.unusable:
        print(kept.sentence())
    return kept.positions


def _labels(context: "Context", images: "ImageSet", labelled: "NDArray[np.int64] | None") -> str:
    """What is added to a protocol's name where not every training image kept its label."""
    from attndistill.core.artifacts import digest_of

    options = context.config.probe.labels
    if labelled is None:
        return ""
    if options.fraction is not None:
        return f", {100 * options.fraction:g} % of labels (seed {options.seed})"
    return f", {len(labelled)} labels of list {digest_of([images.names[index] for index in labelled])[:12]}"


def _found(results: "list[Result]", seeds: tuple[int, ...], labels: str) -> "Found":
    """One evaluation's figures over seeds."""
    from attndistill.results import Found, Measurement

    protocol = results[0].protocol + labels
    assert {result.protocol for result in results} == {results[0].protocol}

    def over_seeds(values: list[float]) -> Measurement:
        return Measurement.of(values, seeds, protocol)

    return Found(
        selected={name: tuple(result.chosen[name] for result in results) for name in results[0].chosen},
        sweep={key: over_seeds([result.sweep[key] for result in results]) for key in results[0].sweep},
        **{name: over_seeds([result.figures[name] for result in results]) for name in results[0].figures},
    )


def _outside(config: "Config", item: Item) -> list[Outside]:
    from attndistill.evaluations import evaluations

    probe = config.probe_of(item.data)
    compared = item.name not in MODELS and any(evaluations()[name].on == "pair" for name in probe.chosen())
    teacher = [Outside("outputs/pretrained/teacher", watched=False)] if compared else []
    return [*([Outside(probe.labels.list_file)] if probe.labels.list_file else []), *teacher]


STAGE = Stage(
    "probe",
    "k-NN (DINO's weighting), logistic regression and the other evaluations that `probe:` turns on",
    run,
    lambda item: (seeds(item), *data_sections(item), "probe", *([f"datasets.{item.data}.probe"] if item.data else [])),
    lambda layout, item: [layout.prepared(item.data), layout.model(item.name)],
    lambda layout, item: [layout.exhibits(item.label), layout.result("probes", f"{item.label}.json")],
    over="model",
    judges=True,
    outside=_outside,
    estimate="attndistill.costs.evaluation:probe",
)

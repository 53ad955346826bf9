"""The teacher's answers to every view, once, for every row."""

from typing import TYPE_CHECKING

from attndistill.stages.declaration import Stage

if TYPE_CHECKING:
    from attndistill.stages.context import Context


def run(context: "Context") -> None:
    """Write outputs/targets; with targets.cache off, a manifest that says so."""
    import shutil

    from attndistill.core.artifacts import digest_of, replacing_directory, write_json
    from attndistill.core.ownership import owned
    from attndistill.models.storage import load_model
    from attndistill.targets import FORMAT, LiveTeacher, bytes_per_answer, identity_in, write_targets

    options, execution = context.config.targets, context.execution
    identity = identity_in(options.precision, context.targets_identity)
    images = context.images("train")
    if not options.cache:
        with replacing_directory(context.layout.targets) as directory:
            write_json(directory / "manifest.json", {"format": FORMAT, "cached": False, "identity": identity})
        return
    backbone, _ = load_model(context.teacher_weights)
    each = bytes_per_answer(backbone, options.extra)
    total = options.views * len(images) * each
    print(f"targets: {options.views} views x {len(images):,} images x {each:,} bytes = {total / 1e9:.2f} GB")
    work = context.work("targets", digest_of({**identity, "count": options.views, "fields": sorted(options.extra)}))
    with owned(work, "making these targets"):
        manifest = write_targets(
            LiveTeacher(backbone, execution.device, options.extra, options.precision),
            images,
            context.views,
            context.layout.targets,
            unfinished=work / "targets",
            identity=identity,
            views=options.views,
            verify=options.verify,
            batch_size=execution.evaluation_batch_size,
            processes=execution.processes,
            workers=execution.workers,
        )
    shutil.rmtree(work, ignore_errors=True)
    context.journal.metrics({"bytes_per_view_and_image": manifest["bytes_per_view_and_image"]}, step=0)
    context.journal.artifact(context.layout.targets / "manifest.json", folder="targets")


STAGE = Stage(
    "targets",
    "the teacher's class token and attention for every view, once",
    run,
    lambda item: ("teacher_seed", "views", "targets"),
    lambda layout, item: [layout.data, layout.model("teacher")],
    lambda layout, item: [layout.targets],
    estimate="attndistill.costs.training:targets",
)

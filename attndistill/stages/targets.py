"""Stage 3: the teacher's answers to every view, once, for every row."""

import shutil

from attndistill.core.artifacts import digest_of, replacing_directory, write_json
from attndistill.core.ownership import owned
from attndistill.models.storage import load_model
from attndistill.stages.context import Context
from attndistill.targets import FORMAT, LiveTeacher, bytes_per_answer, write_targets


def targets(context: Context) -> None:
    """Write outputs/<experiment>/targets; with targets.cache off, a manifest that says so."""
    options = context.config.targets
    identity = context.targets_identity
    images = context.images("train")
    if not options.cache:
        with replacing_directory(context.layout.targets) as directory:
            write_json(directory / "manifest.json", {"format": FORMAT, "cached": False, "identity": identity})
        return
    backbone, _ = load_model(context.teacher_weights)
    each = bytes_per_answer(backbone, options.extra)
    total = options.views * len(images) * each
    print(f"targets: {options.views} views x {len(images):,} images x {each:,} bytes = {total / 1e9:.2f} GB")
    made_of = {**identity, "count": options.views, "fields": sorted(options.extra)}
    work = context.work("targets", digest_of(made_of))
    with owned(work, "making these targets"):
        manifest = write_targets(
            LiveTeacher(backbone, context.device, options.extra),
            images,
            context.recipe,
            context.layout.targets,
            unfinished=work / "targets",
            identity=identity,
            views=options.views,
            verify=options.verify,
            batch_size=context.config.runtime.evaluation_batch_size,
            processes=context.forks,
        )
    shutil.rmtree(work, ignore_errors=True)
    context.journal.metrics({"bytes_per_view_and_image": manifest["bytes_per_view_and_image"]}, step=0)
    context.journal.artifact(context.layout.targets / "manifest.json", folder="targets")

"""Stage 1: the data set as a handful of files with a digest and a manifest."""

from attndistill.core.progress import progress
from attndistill.data.preparation import prepare as prepare_data
from attndistill.data.sources import open_source
from attndistill.stages.context import Context


def prepare(context: Context) -> None:
    """Write outputs/<experiment>/data: images, labels, names, validation part, manifest.json."""
    options = context.config.data
    source = open_source(options.set.name, options.set.options())
    sizes = [len(split.labels) for split in source.splits.values()]
    before = {name: sum(sizes[:position]) for position, name in enumerate(source.splits)}
    with progress("prepare", sum(sizes), "images") as update:
        manifest = prepare_data(
            source,
            context.layout.data,
            validation_fraction=options.validation_fraction,
            split_seed=options.validation_seed,
            on_bad_image=options.on_bad_image,
            max_pixels=options.max_pixels,
            progress=lambda split, done, _: update(before[split] + done),
        )
    for name in manifest["splits"]:
        context.tell_of_data(name, "prepared")
    context.journal.artifact(context.layout.data / "manifest.json", folder="data")

"""The data set as a handful of files with a digest and a manifest."""

from typing import TYPE_CHECKING

from attndistill.stages.declaration import Item, Stage
from attndistill.stages.outside import Outside

if TYPE_CHECKING:
    from attndistill.config import Config
    from attndistill.stages.context import Context


def run(context: "Context") -> None:
    """Write outputs/data: images, labels, names, validation part, manifest.json."""
    from attndistill.core.progress import progress
    from attndistill.data.preparation import prepare
    from attndistill.data.sources import open_source

    options, directory = context.config.data_of(context.item.data), context.layout.prepared(context.item.data)
    source = open_source(options.set.name, options.set.options())
    sizes = [len(split.labels) for split in source.splits.values()]
    before = {name: sum(sizes[:position]) for position, name in enumerate(source.splits)}
    with progress("prepare", sum(sizes), "images") as update:
        manifest = prepare(
            source,
            directory,
            validation_fraction=options.validation_fraction,
            split_seed=options.validation_seed,
            on_bad_image=options.on_bad_image,
            max_pixels=options.max_pixels,
            progress=lambda split, done, _: update(before[split] + done),
        )
    for name in manifest["splits"]:
        context.record_data(name, "prepared")
    context.journal.artifact(directory / "manifest.json", folder="data")


def _outside(config: "Config", item: Item) -> list[Outside]:
    """Images, unless torchvision may fetch them, and the class list."""
    options = config.data_of(item.data).set.options()
    names = ("class_list", "list_file") if options.get("download") else ("root", "class_list", "list_file")
    return [Outside(str(options[name]), watched=name != "root") for name in names if options.get(name)]


STAGE = Stage(
    "prepare",
    "the data set as a few files, with a digest and a manifest",
    run,
    lambda item: (f"datasets.{item.data}.data",) if item.data else ("data",),
    lambda layout, item: [],
    lambda layout, item: [layout.prepared(item.data)],
    judges=True,
    outside=_outside,
    estimate="attndistill.costs.training:prepare",
    light=True,
)

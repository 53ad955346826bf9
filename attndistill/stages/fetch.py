"""A published file (a teacher checkpoint, an archive of images), resumed where it broke off."""

from typing import TYPE_CHECKING

from attndistill.stages.declaration import Stage

if TYPE_CHECKING:
    from attndistill.stages.context import Context

_MEBIBYTE = 2**20


def run(context: "Context") -> None:
    """Write outputs/downloads/<name>: the file under its own name, or what it unpacks to.

    DVC deletes a stage's outputs before it runs again, so what has arrived so far waits under .work/.

    Raises:
        ValueError: whatever `attndistill.data.fetching.fetch` and `attndistill.data.extraction.extract` refuse.
    """
    import shutil
    from pathlib import PurePosixPath
    from urllib.parse import urlsplit

    from attndistill.core.artifacts import replacing_directory
    from attndistill.core.progress import progress
    from attndistill.data.extraction import extract
    from attndistill.data.fetching import fetch

    item = context.item.name
    wanted, destination = context.config.downloads[item], context.layout.download(item)
    name = PurePosixPath(urlsplit(wanted.url).path).name or item
    waiting = context.layout.work("downloads", wanted.sha256.lower()) / name
    with progress(f"fetch {item}", 0, "MiB") as update:
        fetch(wanted.url, wanted.sha256, waiting, progress=lambda done, _: update(done // _MEBIBYTE))
    if wanted.unpack:
        extract(waiting, destination)
        waiting.unlink()
    else:
        with replacing_directory(destination) as directory:
            shutil.move(waiting, directory / name)
    waiting.parent.rmdir()
    context.journal.tag("sha256", wanted.sha256.lower())


STAGE = Stage(
    "fetch",
    "one file from elsewhere, by its SHA-256",
    run,
    lambda item: (f"downloads.{item.name}",),
    lambda layout, item: [],
    lambda layout, item: [layout.download(item.name)],
    over="download",
    light=True,
)

"""Stage 0: a published file (a teacher checkpoint, an archive of images), resumed where it broke off."""

import shutil
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from attndistill.core.artifacts import replacing_directory
from attndistill.core.progress import progress
from attndistill.data.extraction import extract
from attndistill.data.fetching import fetch as download
from attndistill.stages.context import Context

_MEBIBYTE = 2**20


def fetch(context: Context) -> None:
    """Write outputs/<experiment>/downloads/<name>: the file under its own name, or what it unpacks to.

    DVC deletes a stage's outputs before it runs again, so what has arrived so far waits under .work/.

    Raises:
        ValueError: whatever `attndistill.data.fetching.fetch` and `attndistill.data.extraction.extract` refuse.
    """
    wanted = context.config.downloads[context.item]
    name = PurePosixPath(urlsplit(wanted.url).path).name or context.item
    waiting = context.layout.work("downloads", wanted.sha256.lower()) / name
    with progress(f"fetch {context.item}", 0, "MiB") as update:
        download(wanted.url, wanted.sha256, waiting, progress=lambda done, _: update(done // _MEBIBYTE))
    if wanted.unpack:
        extract(waiting, context.layout.download(context.item))
        waiting.unlink()
    else:
        with replacing_directory(context.layout.download(context.item)) as directory:
            shutil.move(waiting, directory / name)
    waiting.parent.rmdir()
    context.journal.tag("sha256", wanted.sha256.lower())

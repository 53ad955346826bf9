"""Where a teacher comes from when it is not pre-trained here: a checkpoint file, or timm's hub.

The first argument of every source is the side of the images it will see, in pixels.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from attndistill.models.teachers import TEACHER_SOURCES
from attndistill.models.teachers.loading import Loaded, Wanted, load_from_hub, load_teacher


@TEACHER_SOURCES.register("checkpoint")
def checkpoint(
    image_size: int,
    *,
    path: str,
    format: str = "auto",
    half: Literal["teacher", "student"] = "teacher",
    timm_name: str | None = None,
    num_heads: Annotated[int, Field(gt=0)] | None = None,
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None,
    resize_positions: bool = False,
    weights: Literal["plain", "ema"] = "plain",
) -> Loaded:
    """A released checkpoint, or a folder stored by this package or by transformers.

    Args:
        image_size: side of the images it will see, pixels.
        path: the file or folder.
        format: a registered teacher format; auto recognises it.
        half: of checkpoints that hold both.
        timm_name: the architecture, where the tensors do not tell it (rotary positions).
        num_heads: heads per block, where they are not of width 64.
        sha256: of the file; checked before it is read.
        resize_positions: resample position embeddings for another image size.
        weights: ema takes the averaged ones of a file that holds both.
    """
    wanted = Wanted(format, half, timm_name, num_heads, sha256, image_size, resize_positions, weights)
    return load_teacher(Path(path), wanted)


@TEACHER_SOURCES.register("timm")
def timm(image_size: int, *, timm_name: str, resize_positions: bool = False) -> Loaded:
    """A timm model with its published weights, from timm's hub or its cache.

    Args:
        image_size: side of the images it will see, pixels.
        timm_name: such as vit_small_patch16_224.dino.
        resize_positions: resample position embeddings for another image size.
    """
    return load_from_hub(timm_name, Wanted(image_size=image_size, resize_positions=resize_positions))

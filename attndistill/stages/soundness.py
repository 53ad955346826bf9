"""Inputs held against what they say of themselves, before a stage works on them: digests, and every stored value.

Weights are held against their digest where they are loaded. Opening looks at sizes, types and ranges alone; here every
byte is read, once for a process while files have the same sizes and times. No stage imports this: it only refuses.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attndistill.stages.declaration import Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attndistill.core.features import Features
    from attndistill.stages.context import Context

_TOLERANCE = 5e-3  # more than `write_targets` allows itself: another device may have computed the cache
_AT_ONCE = 64
_SHORTER = ("attention",)  # looks at test alone: reading a large data set takes longer

_sound: set[tuple[object, ...]] = set()


def check_inputs(context: "Context", stage: Stage, inputs: Sequence[Path]) -> None:
    """Hold prepared data and cached targets among `inputs` against their manifests. For one process of a run.

    Raises:
        ValueError: in one line, for a file that is another than its stage wrote.
    """
    layout = context.layout
    if layout.prepared(context.item.data) in inputs:
        _check_data(context, stage, layout.prepared(context.item.data))
    if layout.targets in inputs and context.config.targets.cache:
        _once(layout.targets, lambda: _check_targets(context, layout.targets))


def _check_data(context: "Context", stage: Stage, directory: Path) -> None:
    from attndistill.data.manifest import Manifest
    from attndistill.data.store import verify_data

    given = stage.name == "pretrain" and context.item.name == "teacher" and context.config.teacher.source is not None
    if Manifest.read(directory).container == "arrays" or not (given or stage.name in _SHORTER):
        _once(directory, lambda: verify_data(directory))


def _check_targets(context: "Context", directory: Path) -> None:
    """Every value is one that a teacher can answer; a sample of entries is what this one answers now."""
    import numpy as np

    from attndistill.core.randomness import uniforms
    from attndistill.data.answers import ALWAYS, Manifest
    from attndistill.data.loading import view_batch
    from attndistill.data.store import open_split
    from attndistill.models.storage import load_model
    from attndistill.targets import CachedTargets, LiveTeacher, verify_targets

    fields = [Path(name).stem for name in verify_targets(directory) if name.endswith(".npy")]
    extra, device = [field for field in fields if field not in ALWAYS], context.execution.device
    stored = CachedTargets(directory, device, context.targets_identity, extra)
    teacher = LiveTeacher(load_model(context.teacher_weights)[0], device, extra)
    images, recipe, manifest = open_split(context.layout.data, "train"), context.views, Manifest.read(directory)
    draws = uniforms(recipe.seed, "check", 0, np.arange(context.config.targets.verify, dtype=np.int64), 2)
    entries = (draws * (manifest.views, manifest.images)).astype(np.int64)
    for view in np.unique(entries[:, 0]):
        indices = np.unique(entries[entries[:, 0] == view, 1])
        for start in range(0, len(indices), _AT_ONCE):
            batch = view_batch(images, recipe, int(view), indices[start : start + _AT_ONCE])
            found, wanted = (_arrays(answer(batch)) for answer in (stored, teacher))
            for name, values in wanted.items():
                other = ~np.isclose(found[name], values, rtol=_TOLERANCE, atol=_TOLERANCE).reshape(len(values), -1)
                if other.any():
                    image = batch.indices[other.any(axis=1)][0]
                    raise ValueError(
                        f"{directory / f'{name}.npy'}: entry (view {view}, image {image}) is not what the teacher "
                        "answers: remove the folder and run `targets` again"
                    )


def _arrays(features: "Features") -> "dict[str, NDArray[np.float32]]":
    """By field, on the host, as a cache keeps them: a logarithm of zero is the least number of float16."""
    import numpy as np
    import torch

    given = {name: value for name, value in vars(features).items() if value is not None}
    if "layer_attention" in given:
        given["layer_attention"] = torch.stack(given["layer_attention"], dim=1)
    most = float(np.finfo(np.float16).max)
    return {name: value.clamp(-most, most).cpu().numpy() for name, value in given.items()}


def _once(directory: Path, check: Callable[[], None]) -> None:
    """Check files, unless this process found them whole before and their sizes and times are the same."""
    states = [(path.name, (status := path.stat()).st_size, status.st_mtime_ns) for path in sorted(directory.glob("*"))]
    if (stamp := (directory, *states)) not in _sound:
        check()
        _sound.add(stamp)

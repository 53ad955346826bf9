"""Inputs held against what they say of themselves, before a stage works on them: digests, and every stored value.

Weights are held against their digest where they are loaded. Opening looks at sizes, types and ranges alone; here every
byte is read, once for a process while files have the same sizes and times. No stage imports this: it only refuses.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

from attndistill.core.reading import regular_file
from attndistill.core.words import shown
from attndistill.stages.declaration import Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attndistill.config import Config
    from attndistill.core.features import Features
    from attndistill.stages.context import Context

_SLACK = 2.5  # times what `write_targets` allows itself: another device may have computed the cache
_AT_ONCE = 64
_BYTES = 8  # of a weight and its gradient
_PART = 256
_SUM_TOLERANCE = 1e-3
_MOST_TABLE, _ENDS = 10**8, re.compile(rb'"data_offsets":\s*\[\s*\d+\s*,\s*(\d+)\s*\]')  # of safetensors
_SHORTER = ("attention",)  # looks at test alone: reading a large data set takes longer

_sound: set[tuple[object, ...]] = set()


def check_inputs(context: "Context", stage: Stage, inputs: Sequence[Path]) -> None:
    """Hold prepared data and cached targets among `inputs` against their manifests. For one process of a run.

    Raises:
        ValueError: in one line, for a file that is another than its stage wrote.
    """
    layout = context.layout
    _check_memory(context, stage)
    for path in inputs:
        check_files(path)
    if layout.prepared(context.item.data) in inputs:
        _check_data(context, stage, layout.prepared(context.item.data))
    if layout.targets in inputs and context.config.targets.cache:
        _once(layout.targets, lambda: _check_targets(context, layout.targets))
    for path in inputs:
        if path.parent in (layout.outputs / "pretrained", layout.outputs / "distilled"):
            check_weights(path)
            _check_sizes(context, path)
    if (maps := layout.attention("teacher")) in inputs:
        _once(maps, lambda: _check_teacher_maps(maps, layout.data))


def _check_memory(context: "Context", stage: Stage) -> None:
    """Raise ValueError for a model that is to be trained and whose weights are more than this machine's memory."""
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name, count in _parameters(context.config, stage.name, context.item.name).items():
        if _BYTES * count > have:
            size = f"{count:,} parameters and their gradients take {_BYTES * count / 1e9:,.0f} GB"
            raise ValueError(f"{name}: {size}, this machine has {have / 1e9:,.0f}; allowed: a smaller width or depth")


def _parameters(config: "Config", stage: str, item: str) -> dict[str, int]:
    """Of what a stage trains, nearly."""
    from attndistill.models.sizes import count_parameters

    student = {"student": count_parameters(config.views.image_size, **config.student.plain())}
    if stage == "distill":
        return student | {"distill.projector_depth": 2 * config.distill.projector_depth * config.student.embed_dim**2}
    if stage != "pretrain" or (item == "teacher" and config.teacher.source is not None):
        return {}
    decoder = {"pretrain.decoder": 12 * config.pretrain.decoder.depth * config.pretrain.decoder.embed_dim**2}
    teacher = {"teacher": count_parameters(config.views.image_size, **config.teacher.sizes())}
    return decoder | (teacher if item == "teacher" else student)


def _check_data(context: "Context", stage: Stage, directory: Path) -> None:
    from attndistill.data.manifest import Manifest

    given = stage.name == "pretrain" and context.item.name == "teacher" and context.config.teacher.source is not None
    if Manifest.read(directory).container == "arrays" or not (given or stage.name in _SHORTER):
        _once(directory, lambda: whole_data(directory))


def _check_targets(context: "Context", directory: Path) -> None:
    """Every value is one that a teacher can answer; a sample of entries is what this one answers now."""
    import numpy as np

    from attndistill.core.randomness import uniforms
    from attndistill.data.answers import ALWAYS, Manifest
    from attndistill.data.loading import view_batch
    from attndistill.data.store import open_split
    from attndistill.models.storage import load_model
    from attndistill.targets import TOLERANCE, CachedTargets, LiveTeacher, identity_in

    fields = [Path(name).stem for name in whole_targets(directory) if name.endswith(".npy")]
    extra, device = [field for field in fields if field not in ALWAYS], context.execution.device
    precision = context.config.targets.precision
    near, identity = _SLACK * TOLERANCE[precision], identity_in(precision, context.targets_identity)
    stored = CachedTargets(directory, device, identity, extra)
    teacher = LiveTeacher(load_model(context.teacher_weights)[0], device, extra, precision)
    images, recipe, manifest = open_split(context.layout.data, "train"), context.views, Manifest.read(directory)
    draws = uniforms(recipe.seed, "check", 0, np.arange(context.config.targets.verify, dtype=np.int64), 2)
    entries = (draws * (manifest.views, manifest.images)).astype(np.int64)
    for view in np.unique(entries[:, 0]):
        indices = np.unique(entries[entries[:, 0] == view, 1])
        for start in range(0, len(indices), _AT_ONCE):
            batch = view_batch(images, recipe, int(view), indices[start : start + _AT_ONCE])
            found, wanted = (_arrays(answer(batch)) for answer in (stored, teacher))
            for name, values in wanted.items():
                other = ~np.isclose(found[name], values, rtol=near, atol=near).reshape(len(values), -1)
                if other.any():
                    image = batch.indices[other.any(axis=1)][0]
                    raise ValueError(
                        f"{directory / f'{name}.npy'}: entry (view {view}, image {image}) is not what the teacher "
                        "answers: remove the folder and run `targets` again"
                    )


def whole_data(directory: Path) -> None:
    """`data.store.verify_data`; numpy says of a header that is no Python in two more ways than ValueError."""
    from attndistill.data.store import verify_data

    try:
        verify_data(directory)
    except (SyntaxError, TokenError) as error:
        raise ValueError(
            f"{shown(directory)}: an array's header is damaged ({shown(error)}); run prepare again"
        ) from None


def whole_targets(directory: Path) -> dict[str, str]:
    """`targets.verify_targets`, of regular files: a pipe would keep it waiting."""
    import numpy as np

    from attndistill.targets import verify_targets

    check_files(directory)
    with np.errstate(all="ignore"):  # values that are none are refused
        return verify_targets(directory)


def check_weights(directory: Path) -> None:
    """The files of stored models are regular, and as long as their tables say: their digest takes no longer."""
    for folder in sorted(directory.glob("seed-*")) or [directory]:
        check_files(folder)
        path = folder / "model.safetensors"
        if not path.exists():
            continue
        with regular_file(path, at_most=2**62) as file:
            length = int.from_bytes(file.read(8), "little")
            table = file.read(min(length, _MOST_TABLE))
        ends = [int(end) for end in _ENDS.findall(table)]
        if length > _MOST_TABLE or path.stat().st_size != 8 + length + max(ends, default=0):
            raise ValueError(f"{shown(path)} has not the size that it says: run the stage that makes it again")


def _check_sizes(context: "Context", directory: Path) -> None:
    """Sizes that no tensor shows, as its number of heads, are those that the model was made with: the settings', or of
    a released teacher those of its account."""
    from dataclasses import asdict

    from attndistill.models.description import read_description

    config, name = context.config, directory.name
    wanted: Mapping[str, Any] = config.teacher.sizes() if name == "teacher" else config.student.plain()
    whose = f"{'teacher' if name == 'teacher' else 'student'} of the settings"
    if name == "teacher" and config.teacher.source is not None:
        from attndistill.results import TrainingFile

        path = context.layout.result("training", "teacher.json")
        wanted, whose = (TrainingFile.read(path).load or {}) if path.exists() else {}, shown(path)
    for folder in sorted(directory.glob("seed-*")):
        found = asdict(read_description(folder).vit)
        for size in sorted(found.keys() & wanted.keys()):
            if found[size] != wanted[size]:
                raise ValueError(
                    f"{shown(folder / 'model.json')}: {size} is {shown(found[size])}, of the {whose} "
                    f"{shown(wanted[size])}: run the stage that makes it again"
                )


def check_files(directory: Path) -> None:
    """Raise ValueError for a pipe, a device or the like directly in a folder, or in its place."""
    for path in sorted(directory.glob("[!.]*")) if directory.is_dir() else [directory]:
        try:
            if not path.is_dir():
                regular_file(path, at_most=2**62).close()
        except OSError as error:
            raise ValueError(f"{shown(path)} cannot be read: {error.strerror}") from None


def _check_teacher_maps(directory: Path, data: Path) -> None:
    """A row of log-probabilities for each head and test image."""
    import numpy as np

    from attndistill.data.arrays import read_array
    from attndistill.data.manifest import Manifest
    from attndistill.stages.attention import TEACHER_ROWS

    path, again = directory / TEACHER_ROWS, "run `attndistill attention --model teacher` again"
    rows = read_array(path, mapped=True)
    if rows.ndim != 3 or rows.dtype != np.float32 or len(rows) != Manifest.read(data).splits["test"].count:
        raise ValueError(f"{path}: {shown(rows.dtype)} {rows.shape}; allowed: float32, a test image a row; {again}")
    for start in range(0, len(rows), _PART):
        with np.errstate(over="ignore", invalid="ignore"):
            sums = np.exp(rows[start : start + _PART], dtype=np.float64).sum(axis=-1)
        if not (np.abs(sums - 1) < _SUM_TOLERANCE).all():
            raise ValueError(f"{path}: rows that are no logarithms of probabilities; {again}")


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

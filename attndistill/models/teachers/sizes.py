"""The sizes of a released teacher, read from its file: they are not asked for. Cheap: no weights are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attndistill.core.words import shown
from attndistill.models.released import heads_and_width, sizes_of
from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.formats import with_weights
from attndistill.models.teachers.reading import read_shapes

_ASKED = ("embed_dim", "depth", "num_heads", "patch_size")


def sizes_of_file(source: Mapping[str, Any]) -> dict[str, Any]:
    """embed_dim, depth, num_heads, patch_size and mlp_ratio of a teacher.

    A safetensors file is read without torch, a torch file without its tensors.

    Args:
        source: `teacher.source` as the configuration has it: name, and that source's options.

    Raises:
        ValueError: no such file, or one whose sizes cannot be told.
    """
    if source.get("timm_name") is not None:
        return _of_timm(str(source["timm_name"]))
    path = Path(source["path"])
    if (path / "model.json").exists():
        return _of_stored(path)
    contents, _ = with_weights(read_shapes(path), source.get("weights", "plain"))
    wanted = source.get("format", "auto")
    problem: ValueError | None = None
    for name in TEACHER_FORMATS.names() if wanted == "auto" else (wanted,):
        found = TEACHER_FORMATS[name]().read(contents, name, source.get("half", "teacher"))
        if found is None:
            continue
        arch = heads_and_width(found.arch) if found.arch else None
        heads = found.heads or source.get("num_heads") or (arch and arch[0])
        try:
            sizes = sizes_of(found.weights, num_heads=heads, rotary=found.rope_temperature is not None)
        except ValueError as error:
            problem = problem or error
            continue
        inner = sizes["hidden"] // 2 if sizes["gated"] else sizes["hidden"]
        return {**{size: sizes[size] for size in _ASKED}, "mlp_ratio": inner / sizes["embed_dim"]}
    raise ValueError(shown(f"{path}: {problem or 'of no known format: its sizes cannot be told'}", 1000))


def _of_timm(timm_name: str) -> dict[str, Any]:
    from attndistill.models.teachers.fitting import empty
    from attndistill.models.weightless import weightless

    with weightless():
        model = empty(timm_name)
    hidden = model.blocks[0].mlp.fc2.in_features
    sizes = (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads, model.patch_embed.patch_size[0])
    return {**dict(zip(_ASKED, sizes, strict=True)), "mlp_ratio": hidden / model.embed_dim}


def _of_stored(path: Path) -> dict[str, Any]:
    from attndistill.models.description import Named, Sizes, read_description

    vit = read_description(path).vit
    if isinstance(vit, Named):
        return _of_timm(vit.timm_name)
    ratio = vit.mlp_ratio if isinstance(vit, Sizes) else vit.hidden / (1 + vit.gated) / vit.embed_dim
    return {**{name: getattr(vit, name) for name in _ASKED}, "mlp_ratio": ratio}

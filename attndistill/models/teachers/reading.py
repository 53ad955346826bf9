"""Reading a checkpoint of unknown origin. Nothing in it is ever executed.

torch's weights-only unpickler takes tensors, plain containers and two kinds more: `argparse.Namespace`, in which DINO,
iBOT, Mugs and MAE keep their arguments, and the paths that cluster launchers put there, which become pure paths: text
that opens nothing. Everything else is refused. There is no way to switch this off.

What a reader would get wrong: torch does not look at the checksums in its own zip files. They are checked here, so that
a damaged download is not taken for a teacher; safetensors and torch's old format have none, only the sha256 tells.
Without torch, the header of a safetensors file tells names and shapes (`read_shapes`).
"""

import hashlib
import json
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attndistill.core.artifacts import file_digest
from attndistill.core.words import shown

_ADVICE = "load it where you trust it, keep the state dict alone, and save that with safetensors.torch.save_file"
# torch's words: "unsupported GLOBAL posix.mkdir", "Unsupported global: GLOBAL numpy.dtype", "Unsupported class x.Y"
_REFUSED = re.compile(r"(?:GLOBAL|[Uu]nsupported (?:class|global):?) (?!GLOBAL)([\w.]+)")
_NO_CHECKPOINT = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself (git lfs pull)",
    b"<": "a web page: the download led to a page, not to the file",
    b"GGUF": "a GGUF file: quantised weights are not read; fetch the safetensors file",
    b"\x89HDF": "an HDF5 file (Keras): fetch the safetensors or torch file",
    b"\x93NUMPY": "a numpy array: fetch the safetensors or torch file",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
}
_LARGEST_HEADER = 10 * 2**20  # bytes: 100,000 tensors
_LARGEST_PICKLE = 4 * 2**20  # bytes, tensors apart: ten times what a full checkpoint has
_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as transformers names them, in a folder
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_PATHS = [
    (pure, f"{module}.{name}")
    for module in ("pathlib", "pathlib._local")
    for pure in (PurePosixPath, PureWindowsPath)
    for name in (pure.__name__, pure.__name__.removeprefix("Pure"))
] + [(PurePosixPath, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in ("PurePath", "Path")]


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        path: the file or folder.
        sha256: digest of its bytes.
        tree: its outermost mapping.
        safetensors: whether it is safetensors (a flat mapping of tensors by construction).
        config: what the config.json of its folder says.
    """

    path: Path
    sha256: str
    tree: dict[str, Any]
    safetensors: bool
    config: "TransformersConfig | None" = None


@dataclass(frozen=True)
class Shape:
    """A tensor of which the shape alone is known."""

    shape: tuple[int, ...]


_Size = Annotated[int, Field(gt=0)] | None


class TransformersConfig(BaseModel):
    """What transformers' config.json says that tensors do not, or that they must agree with."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)
    hidden_size: _Size = None
    num_hidden_layers: _Size = None
    num_attention_heads: _Size = None
    hidden_act: str | None = None
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] | None = None
    rope_theta: Annotated[float, Field(gt=0)] | None = None


class _Index(BaseModel):
    """What is read of model.safetensors.index.json."""

    weight_map: Annotated[dict[str, str], Field(min_length=1)]


class _Header(BaseModel):
    """One tensor in the header of a safetensors file."""

    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]


def read_checkpoint(path: Path, sha256: str | None = None) -> Contents:
    """Read a safetensors or torch file, whatever its name ends with, or a folder or index as transformers saves them.

    Args:
        path: the file or folder.
        sha256: what it must digest to, if known; checked before anything in it is looked at.

    Raises:
        ValueError: no such file, another digest, a broken file, or one that holds more than tensors and plain values.
    """
    files = _parts(path)
    digest = None if sha256 is None else _digest(files)
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(f"{path}: its SHA-256 is {digest}, {sha256.lower()} was wanted; nothing in it was read")
    tree, is_safetensors = _tree(path, files, read_safetensors, _read_torch)
    return Contents(path, digest or _digest(files), tree, is_safetensors, _config(path))


def read_shapes(path: Path) -> Contents:
    """What `read_checkpoint` would find, with shapes in the place of tensors and no digest; cheap.

    A safetensors file is read without torch.
    """
    tree, is_safetensors = _tree(path, _parts(path), _safetensors_shapes, lambda file: _read_torch(file, meta=True))
    return Contents(path, "", tree, is_safetensors, _config(path))


def check_tensors(weights: Mapping[str, Any]) -> None:
    """Refuse tensors that are no weights, before they decide how large a model is built.

    Raises:
        ValueError: not floating point, not dense, or without the bytes their shape needs.
    """
    import torch

    for given, tensor in weights.items():
        name, kind = shown(given), str(tensor.dtype).removeprefix("torch.")
        if re.match(r"float[468]_", kind):
            raise ValueError(f"{name} holds {kind}: quantised weights are not read; allowed: {', '.join(_FLOATS)}")
        if kind not in _FLOATS:
            raise ValueError(f"{name} holds {kind}, not floating-point weights; allowed: {', '.join(_FLOATS)}")
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{name} is a {tensor.layout} tensor on {tensor.device}, not plain weights")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{name} is {list(tensor.shape)} of fewer values repeated: no training leaves such weights"
            )


def check_finite(weights: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first tensor that holds NaN or infinity."""
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{shown(name)} holds NaN or infinity: the file is damaged, or its training had failed")


def check_regular(path: Path) -> None:
    """Raises ValueError for what is no file: a pipe would never end, a device might not."""
    if not path.exists():
        raise ValueError(f"{path}: no such file; allowed: a checkpoint file")
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder' if path.is_dir() else 'a pipe or device'}; allowed: a checkpoint file")


def _parts(path: Path) -> dict[Path, list[str] | None]:
    """The files that hold the weights -> the names that an index says are in them, None where there is no index."""
    if path.is_dir():
        index = path / _INDEX
        file = next((path / name for name in _WEIGHTS if (path / name).exists()), None)
        if not index.exists() and file is None:
            wanted = ", ".join(("model.json", _INDEX, *_WEIGHTS))
            raise ValueError(f"{path} is no folder of a model: none of {wanted} is in it")
        return _shards(index) if index.exists() else {_within(path, str(file.name)): None} if file else {}
    check_regular(path)
    return _shards(path) if path.suffix == ".json" else {path: None}


def _shards(index: Path) -> dict[Path, list[str] | None]:
    described = _validated(_Index, _within(index.parent, index.name))
    files: dict[Path, list[str] | None] = {}
    for name, file in described.weight_map.items():
        names = files.setdefault(_within(index.parent, file), [])
        assert names is not None
        names.append(name)
    return files


def _within(folder: Path, name: str) -> Path:
    """A file of a folder. A name from a file is no path: it may not lead elsewhere, and no link may either."""
    if PurePath(name).name != name or PureWindowsPath(name).name != name or "\0" in name:
        raise ValueError(f"{folder}: {shown(name)!r} is named as one of its files; allowed: a name, without a folder")
    path, home = folder / name, folder.resolve()
    check_regular(path)
    if path.resolve().parent not in (home, home.parent.parent / "blobs"):  # where the hub's cache keeps its files
        raise ValueError(f"{path} is a link that leads out of its folder: refused; give the file itself")
    return path


def _digest(files: Mapping[Path, Any]) -> str:
    """SHA-256 of the one file; of several, of what `sha256sum` prints of them in the order of their names."""
    digests = {file.name: file_digest(file) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()


def _tree(
    path: Path,
    files: Mapping[Path, list[str] | None],
    read_safetensors: Callable[[Path], dict[str, Any]],
    read_torch: Callable[[Path], Any],
) -> tuple[dict[str, Any], bool]:
    """The outermost mapping, and whether it is safetensors'."""
    whole: dict[str, Any] = {}
    safetensors = [_is_safetensors(file) for file in files]
    for (file, names), is_safetensors in zip(files.items(), safetensors, strict=True):
        tree = read_safetensors(file) if is_safetensors else read_torch(file)
        if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
            raise ValueError(f"{path} holds a {type(tree).__name__}, not a mapping of names: it is no checkpoint")
        if names is not None and set(names) != set(tree):
            odd = shown(min(set(names) ^ set(tree)))
            raise ValueError(f"{file} is not the one that its index describes: {odd} is in one of the two only")
        whole |= tree
    return whole, all(safetensors)


def _config(path: Path) -> TransformersConfig | None:
    folder = path if path.is_dir() else path.parent
    if not (path.is_dir() or path.suffix == ".json") or not (folder / "config.json").exists():
        return None
    config: TransformersConfig = _validated(TransformersConfig, _within(folder, "config.json"))
    return config


def _validated(kind: type[Any], path: Path) -> Any:
    if path.stat().st_size > _LARGEST_HEADER:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; allowed: at most {_LARGEST_HEADER:,}")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {shown('.'.join(map(str, first['loc'])))}: {shown(first['msg'])}") from None


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts with a header's length and an opening brace that lie inside of it."""
    with path.open("rb") as file:
        start = file.read(9)
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
    inside = start[8:] == b"{" and length <= path.stat().st_size - 8
    if inside and length > _LARGEST_HEADER:
        raise ValueError(f"{path} has a header of {length:,} bytes; allowed: at most {_LARGEST_HEADER:,}")
    return inside or (path.suffix == ".safetensors" and not zipfile.is_zipfile(path))


def read_safetensors(path: Path) -> dict[str, Any]:
    """Names and tensors. Raises ValueError for a file that is not whole, or not safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not _is_safetensors(path):
        raise ValueError(f"{path} is not a safetensors file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, AttributeError, KeyError) as error:  # the last two: unknown types
        raise ValueError(f"{path} is not a whole safetensors file: {shown(error) or type(error).__name__}") from None


def _safetensors_shapes(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        header.pop("__metadata__", None)
        return {name: Shape(tuple(_Header.model_validate(entry).shape)) for name, entry in header.items()}
    except (struct.error, ValueError, AttributeError, OverflowError, RecursionError, MemoryError):
        raise ValueError(f"{path} is not a whole safetensors file: its header cannot be read") from None


def _read_torch(path: Path, *, meta: bool = False) -> Any:
    """The contents of a torch file; on the meta device, tensors have shapes alone and checksums are not held."""
    with path.open("rb") as file:
        start = file.read(32)
    for sign, what in _NO_CHECKPOINT.items():
        if start.lstrip().startswith(sign):
            raise ValueError(f"{path} is {what}")
    if not zipfile.is_zipfile(path) and start[:2] not in (b"PK", b"\x80\x02"):
        raise ValueError(f"{path} is not a whole torch checkpoint, and no safetensors file")
    return _unpickled(path, meta)


def _unpickled(path: Path, meta: bool) -> Any:
    import argparse

    import torch

    try:
        fault = _fault(path, checksums=not meta)
        # given open: torch would judge a file by its name
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace, *_PATHS]):
            device = "meta" if meta else "cpu"
            tree = None if fault else torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # a hostile or broken file may raise anything; none of it is the user's traceback
        if refused := _REFUSED.search(str(error)):
            raise ValueError(f"{path} asks for {shown(refused[1])}, which is refused; {_ADVICE}") from None
        raise ValueError(f"{path} is not a whole torch checkpoint ({type(error).__name__})") from None
    if fault is not None:
        raise ValueError(f"{path} is not a whole torch checkpoint ({fault})")
    return tree


def _fault(path: Path, *, checksums: bool) -> str | None:
    """What is wrong with a zip file before torch reads it: its members are stored as they are, side by side."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as members:
        entries = members.infolist()
        if any(not entry.filename.strip("/\0") for entry in entries):
            return "one of its members has no name"
        if any("/code/" in entry.filename for entry in entries):
            return "a TorchScript archive, which is a program: save the state dict of its model"
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            return "its members are compressed, which torch's never are"
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            return "its members claim more bytes than the file has"
        pickled = max((entry.file_size for entry in entries if entry.filename.endswith(".pkl")), default=0)
        if pickled > _LARGEST_PICKLE:
            return f"a pickle of {pickled:,} bytes; allowed: at most {_LARGEST_PICKLE:,} beside the tensors"
        damaged = members.testzip() if checksums else None
        return None if damaged is None else f"{shown(damaged)} is damaged: fetch it again"

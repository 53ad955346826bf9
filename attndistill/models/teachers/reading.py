"""Reading a checkpoint of unknown origin. Nothing in it is ever executed.

torch's weights-only unpickler takes tensors, plain containers and one class more: `argparse.Namespace`, in which DINO,
iBOT, Mugs and MAE keep their arguments. Everything else is refused. There is no way to switch this off.

What a reader would get wrong: torch does not look at the checksums in its own zip files. They are checked here, so that
a damaged download is not taken for a teacher; safetensors and torch's old format have none, only the sha256 tells.
"""

import argparse
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attndistill.core.artifacts import file_digest

_ADVICE = "load it where you trust it, keep the state dict alone, and save that with safetensors.torch.save_file"
# torch's words: "unsupported GLOBAL posix.mkdir", "Unsupported global: GLOBAL numpy.dtype", "Unsupported class x.Y"
_REFUSED = re.compile(r"(?:GLOBAL|[Uu]nsupported (?:class|global):?) (?!GLOBAL)([\w.]+)")
_NO_CHECKPOINT = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself (git lfs pull)",
    b"<": "a web page: the download led to a page, not to the file",
}


@dataclass(frozen=True)
class Contents:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        sha256: digest of its bytes.
        tree: its outermost mapping.
        safetensors: whether it is a safetensors file (a flat mapping of tensors by construction).
    """

    path: Path
    sha256: str
    tree: dict[str, Any]
    safetensors: bool

    @property
    def is_flat(self) -> bool:
        """Whether the outermost mapping is a state dict itself."""
        return bool(self.tree) and all(isinstance(value, Tensor) for value in self.tree.values())


def read_checkpoint(path: Path, sha256: str | None = None) -> Contents:
    """Read a safetensors or torch file, whatever its name ends with.

    Args:
        path: the file.
        sha256: what it must digest to, if known; checked before anything in it is looked at.

    Raises:
        ValueError: no such file, another digest, a broken file, or one that holds more than tensors and plain values.
    """
    if path.is_dir() or not path.exists():
        raise ValueError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; allowed: a checkpoint file")
    digest = file_digest(path)
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(f"{path}: its SHA-256 is {digest}, {sha256.lower()} was wanted; nothing in it was read")
    is_safetensors = _is_safetensors(path)
    tree = _read_safetensors(path) if is_safetensors else _read_torch(path)
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ValueError(f"{path} holds a {type(tree).__name__}, not a mapping of names: it is no checkpoint")
    return Contents(path, digest, tree, is_safetensors)


def check_tensors(weights: dict[str, Tensor]) -> None:
    """Refuse tensors that are no weights, before they decide how large a model is built.

    Raises:
        ValueError: not floating point, not dense, without the bytes their shape needs, or not finite.
    """
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not floating-point weights")
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{name} is a {tensor.layout} tensor on {tensor.device}, not plain weights")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{name} is {list(tensor.shape)} of fewer values repeated: no training leaves such weights"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity: the file is damaged, or its training had failed")


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts with a header's length and an opening brace that lie inside of it."""
    with path.open("rb") as file:
        start = file.read(9)
    inside = len(start) == 9 and struct.unpack("<Q", start[:8])[0] <= path.stat().st_size - 8
    named_so = path.suffix == ".safetensors" and not zipfile.is_zipfile(path)
    return (inside and start[8:] == b"{") or named_so


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {_one_line(error)}") from None


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(32).lstrip()
    for sign, what in _NO_CHECKPOINT.items():
        if start.startswith(sign):
            raise ValueError(f"{path} is {what}")
    try:
        damaged = _damaged_part(path)
        # given open: torch would judge a file by its name
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            tree = None if damaged else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken file may raise anything; none of it is the user's traceback
        if refused := _REFUSED.search(str(error)):
            raise ValueError(f"{path} asks for {refused[1]}, which is refused; {_ADVICE}") from None
        raise ValueError(f"{path} is not a whole torch checkpoint ({type(error).__name__})") from None
    if damaged is not None:
        raise ValueError(f"{path} is not a whole torch checkpoint ({damaged} is damaged): fetch it again")
    return tree


def _damaged_part(path: Path) -> str | None:
    """The first member of a zip file whose checksum does not hold."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as members:
        return members.testzip()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

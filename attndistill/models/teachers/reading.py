"""Reading a checkpoint of unknown origin. Nothing in it is ever executed.

torch's weights-only unpickler takes tensors, plain containers and one class more: `argparse.Namespace`, in which DINO,
iBOT, Mugs and MAE keep their arguments. Everything else is refused. There is no way to switch this off.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attndistill.core.artifacts import file_digest

_ADVICE = "load it where you trust it, keep the state dict alone, and save that with safetensors.torch.save_file"


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
    """Read a safetensors or torch file.

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
    is_safetensors = path.suffix == ".safetensors"
    tree = _read_safetensors(path) if is_safetensors else _read_torch(path)
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ValueError(f"{path} holds a {type(tree).__name__}, not a mapping of names: it is no checkpoint")
    return Contents(path, digest, tree, is_safetensors)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {_one_line(error)}") from None


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken file may raise anything; none of it is the user's traceback
        refused = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:class|global)[: ]+([\w.]+)", str(error))
        if refused:
            name = next(filter(None, refused.groups()))
            raise ValueError(f"{path} asks to run {name}, which is refused; {_ADVICE}") from None
        raise ValueError(f"{path} is not a whole torch checkpoint ({type(error).__name__})") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

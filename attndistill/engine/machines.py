"""What this machine, and the batch system that it submits to, say of themselves before work is sent there."""

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attndistill.core.words import shown

_NODES_OWN = {"tmpfs", "ramfs", "overlay", "devtmpfs", "squashfs"}  # file systems that no other machine sees


def check_known(what: str, name: str, found: Sequence[str]) -> None:
    """Raise ValueError where a batch system does not know a name."""
    if name not in found:
        allowed = shown(", ".join(sorted(set(found))) or "none: this machine knows of no such thing")
        raise ValueError(f"{what}: {shown(name)} does not exist; allowed: {allowed}")


def check_cluster() -> None:
    """Raise ValueError where Kubernetes' client is not told of a cluster."""
    config: Any = importlib.import_module("kubernetes.config")
    try:
        config.load_kube_config()
    except config.ConfigException:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            raise ValueError(
                "kubernetes: no cluster is configured here; allowed: ~/.kube/config, KUBECONFIG, a pod"
            ) from None


def gpus_here() -> int:
    """How many GPUs workers of this machine would see."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is not None:
        return len([name for name in seen.split(",") if name.strip()])
    return len(asked("nvidia-smi", "-L").splitlines()) if shutil.which("nvidia-smi") else 0


def asked(*words: str) -> str:
    """What a batch system's program answers. Raises ValueError where it does not, or refuses."""
    if shutil.which(words[0]) is None:
        raise ValueError(f"executor: {words[0]} is not on this machine's PATH: run this where jobs can be submitted")
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"executor: {words[0]} did not answer within 30 s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise ValueError(f"executor: {words[0]} says: {shown(said, 300)}")
    return done.stdout


def own_file_system(folder: Path) -> str | None:
    """The file system of a folder, where it is one that no other machine sees; None otherwise."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    around = [(Path(re.sub(r"\\040", " ", place)), kind) for _, place, kind, *_ in mounts]
    kind = max((len(place.parts), kind) for place, kind in around if folder.is_relative_to(place))[1]
    if kind in _NODES_OWN:
        return kind
    return next((place for place in ("/tmp", "/var/tmp", "/dev/shm") if folder.is_relative_to(place)), None)

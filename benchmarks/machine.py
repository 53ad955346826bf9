"""What a figure was measured on, and how fast that machine multiplies matrices at this moment."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from attndistill.core.process import keep_memory

_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_GEMM_SIDE = {"cpu": 1024, "cuda": 8192}
_GEMM_REPEATS = {"cpu": 3, "cuda": 10}
# tf32 is float32 whose products round their factors to 10 bits; a GPU alone knows it
PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, device, threads and library; nothing that changes between two runs."""
    facts: dict[str, Any] = {
        "processor": _processor("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in _INSTRUCTIONS if name in _processor("flags").split()],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device.type,
    }
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        facts["memory"] = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB"
    return facts


def precisions(kind: str) -> list[str]:
    """The precisions that this kind of device has."""
    return [name for name in PRECISIONS if kind == "cuda" or name != "tf32"]


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Whether products and convolutions of float32 are rounded to tf32: in "tf32" alone."""
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision == "tf32"
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def as_it_comes(work: Callable[..., object]) -> Callable[..., object]:
    """Work of others, with memory as glibc hands it out by itself; our programs keep more (`core.process`)."""

    @wraps(work)
    def done(*arguments: Any) -> object:
        keep_memory(32 * 2**20)
        try:
            return work(*arguments)
        finally:
            keep_memory()

    return done


def synchronise(device: torch.device) -> None:
    """Wait for what was queued, so that a clock means what it says."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gemm_rate(precision: str, device: torch.device) -> float:
    """Floating-point operations a second of a large square product, the best of a few."""
    side = _GEMM_SIDE[device.type]
    matrix = torch.randn(side, side, device=device).to(PRECISIONS[precision])
    seconds = []
    with products_in(precision):
        for _ in range(_GEMM_REPEATS[device.type]):
            synchronise(device)
            start = time.perf_counter()
            matrix @ matrix
            synchronise(device)
            seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def _processor(fact: str) -> str:
    """The first such line of Linux's description; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(fact)), "")

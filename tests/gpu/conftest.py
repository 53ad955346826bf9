"""A CUDA device, or a reason to skip. ATTNDISTILL_TEST_DEVICE=cpu runs these tests on a CPU, to try them."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at the first product

from collections.abc import Iterator

import pytest
import torch

from attndistill.pipeline import make_deterministic
from benchmarks.training import plain_config


@pytest.fixture(scope="session")
def device() -> torch.device:
    kind = os.environ.get("ATTNDISTILL_TEST_DEVICE", "cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return torch.device(kind)


@pytest.fixture(autouse=True)
def _as_a_stage_runs(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms alone: an operation without one raises."""
    make_deterministic(plain_config())
    yield
    torch.use_deterministic_algorithms(False)

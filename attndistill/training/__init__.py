"""The only training loop, its optimizers and its checkpoints."""

from typing import Any

from attndistill.core.registry import Registry

OPTIMIZERS: Registry[Any] = Registry("optimizer", "attndistill.training.optimizers")

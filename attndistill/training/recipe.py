"""A training recipe: the settings of Tables 8 and 9, and the learning rate they come to."""

from typing import Any, Literal

from pydantic import model_validator

from attndistill.core.sections import Count, Positive, PositiveFloat, Section, variant
from attndistill.training import OPTIMIZERS

OptimizerChoice: Any = variant(OPTIMIZERS)


class Recipe(Section):
    """How long, how fast and in which batches something is trained (Table 8's names)."""

    epochs: Positive
    batch_size: Positive
    base_learning_rate: PositiveFloat
    warmup_epochs: Count
    precision: Literal["fp32", "bf16"]
    optimizer: OptimizerChoice

    @property
    def peak_learning_rate(self) -> float:
        """Base learning rate x batch size / 256."""
        return self.base_learning_rate * self.batch_size / 256

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> "Recipe":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be fewer than epochs {self.epochs}")
        return self

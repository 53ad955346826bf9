"""The method's sections: a training recipe, the cache of the teacher's answers, distillation."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attndistill.config.bounds import Count, Positive, PositiveFloat, Weight
from attndistill.config.variants import Aggregation, EmbeddingLoss, Guidance, OptimizerChoice, Section, Signal


class Recipe(Section):
    """A training recipe (Table 8's names)."""

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


TeacherField = Literal["layer_attention", "value_norms", "patch_tokens"]


class Targets(Section):
    """The cache of the teacher's answers."""

    cache: bool
    views: Positive
    verify: Positive
    extra: tuple[TeacherField, ...]

    @field_validator("extra", mode="before")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if isinstance(value, list) and len(set(map(str, value))) < len(value):
            raise ValueError(f"{value}; allowed: each name once")
        return tuple(value) if isinstance(value, list) else value


class Distill(Section):
    """The method (paper sec. 3)."""

    projector_depth: Positive
    alignment_weight: Weight
    lambda_: Weight = Field(alias="lambda")
    signal: Signal
    aggregation: Aggregation
    attention_loss: Guidance
    interpolation: bool
    embedding_loss: EmbeddingLoss | None
    mode: Literal["paper", "official_code"]
    recipe: Recipe

    @property
    def needs(self) -> dict[str, str]:
        """What the losses read of the teacher beyond its class token and last attention, and which setting asks for it.

        Names are fields of `attndistill.core.features.Features`.
        """
        found = {}
        if self.lambda_ > 0 and self.signal.options().get("layers") == "all":
            found["layer_attention"] = "distill.signal.layers all"
        if self.lambda_ > 0 and self.signal.name == "value_norms":
            found["value_norms"] = "distill.signal value_norms"
        if self.embedding_loss is not None and self.embedding_loss.name == "patch_tokens":
            found["patch_tokens"] = "distill.embedding_loss patch_tokens"
        return found

    @model_validator(mode="after")
    def _learns_something(self) -> "Distill":
        if self.alignment_weight == self.lambda_ == 0 and self.embedding_loss is None:
            raise ValueError("alignment_weight and lambda are both 0: nothing would be learned")
        return self

    @model_validator(mode="after")
    def _published(self) -> "Distill":
        """What the published code can do at all."""
        if self.mode == "official_code":
            if self.projector_depth != 4:
                raise ValueError(
                    f"mode official_code with projector_depth {self.projector_depth}; allowed: 4 (the published "
                    "projector reaches the teacher's width for 4 layers alone)"
                )
            if self.needs or self.embedding_loss is not None:
                raise ValueError(
                    "mode official_code knows the attention of the last block alone; allowed: signal attention with "
                    "layers last, embedding_loss null"
                )
        return self

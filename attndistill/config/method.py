"""The method's sections: the cache of the teacher's answers, distillation."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attndistill.core.sections import Positive, Section, Share, Weight, added, variant
from attndistill.losses import AGGREGATIONS, EMBEDDING_LOSSES, GUIDANCE, SIGNALS
from attndistill.losses.fields import teacher_fields
from attndistill.training.recipe import Recipe

Aggregation: Any = variant(AGGREGATIONS)
EmbeddingLoss: Any = variant(EMBEDDING_LOSSES)
Guidance: Any = variant(GUIDANCE)
Signal: Any = variant(SIGNALS)


TeacherField = Literal["layer_attention", "value_norms", "patch_tokens"]


class Targets(Section):
    """The cache of the teacher's answers."""

    cache: bool
    views: Positive
    verify: Positive
    extra: tuple[TeacherField, ...]
    precision: Literal["fp32", "bf16"] = added("fp32")

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
    data_fraction: Share = added(1.0)
    probe_every: Positive | None = added(None)
    recipe: Recipe

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
            if teacher_fields(self) or self.embedding_loss is not None:
                raise ValueError(
                    "mode official_code knows the attention of the last block alone; allowed: signal attention with "
                    "layers last, embedding_loss null"
                )
        return self

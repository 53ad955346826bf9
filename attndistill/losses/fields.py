"""What the losses of a row read of the teacher beyond its class token and the attention of its last block. No torch."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Choices(Protocol):
    """The settings that decide it, as `params.yaml` has them under `distill`."""

    lambda_: float
    signal: Any
    embedding_loss: Any


def teacher_fields(chosen: Choices) -> dict[str, str]:
    """Field of `attndistill.core.features.Features` -> the setting that asks for it."""
    found = {}
    if chosen.lambda_ > 0 and chosen.signal.options().get("layers") == "all":
        found["layer_attention"] = "distill.signal.layers all"
    if chosen.lambda_ > 0 and chosen.signal.name == "value_norms":
        found["value_norms"] = "distill.signal value_norms"
    if chosen.embedding_loss is not None and chosen.embedding_loss.name == "patch_tokens":
        found["patch_tokens"] = "distill.embedding_loss patch_tokens"
    return found

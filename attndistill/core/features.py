"""The one contract between backbones and everything that uses them: what is read out of a vision transformer.

Every reader of a backbone (the losses, the target cache, the probes, the pictures) sees a `Features`, whatever the
model family. Attention is the class token's, as log-probabilities in float32: see `attndistill.losses.aggregation`.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

# B batch, D embedding width, H heads, N patches, A attended tokens: the class token and N patches


@dataclass(frozen=True)
class Features:
    """What one forward pass of a backbone yields.

    Attributes:
        cls_token: class token after the final norm.
        log_attention: per-head log-probabilities of the last block's class-token query over (class token, patches);
            each row's exponentials sum to 1. None when not asked for.
        patch_tokens: patch tokens after the final norm; None when not asked for (they cost a full last block).
        layer_attention: as `log_attention`, for each block that was asked for, in that order.
        value_norms: lengths of the last block's value vectors, per head, over (class token, patches) (ATS, Table 10 f).
    """

    cls_token: Float[Tensor, "B D"]
    log_attention: Float[Tensor, "B H A"] | None = None
    patch_tokens: Float[Tensor, "B N D"] | None = None
    layer_attention: tuple[Float[Tensor, "B H A"], ...] | None = None
    value_norms: Float[Tensor, "B H A"] | None = None

"""Guidance signals: which rows of teacher and student attention guidance L_a matches (Table 10 c and f).

A signal takes the features of both and returns pairs of rows, log-probabilities over (class token, patches) per head;
L_a is averaged over the pairs. Interpolation and head aggregation follow.

B batch; H heads and T tokens (class token and patches) of the teacher, G and S of the student.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attndistill.core.features import Features
from attndistill.losses import SIGNALS

Pairs = list[tuple[Float[Tensor, "B H T"], Float[Tensor, "B G S"]]]


@SIGNALS.register("attention")
def class_token_attention(teacher: Features, student: Features, *, layers: Literal["last", "all"] = "last") -> Pairs:
    """The paper's: where the class token looks, in the last block or in every block of the student.

    Args:
        teacher: with `layer_attention` of every block, for "all".
        student: likewise.
        layers: "last" matches the last blocks; "all" each block of the student with the teacher's at the same share of
            the depth (`matched_blocks`).
    """
    if layers == "last":
        assert teacher.log_attention is not None
        assert student.log_attention is not None
        return [(teacher.log_attention, student.log_attention)]
    assert teacher.layer_attention is not None
    assert student.layer_attention is not None
    blocks = matched_blocks(len(student.layer_attention), len(teacher.layer_attention))
    return [(teacher.layer_attention[block], rows) for block, rows in zip(blocks, student.layer_attention, strict=True)]


@SIGNALS.register("value_norms")
def attention_by_value_norms(teacher: Features, student: Features) -> Pairs:
    """Attention of the last block times the length of each token's value vector, per head, renormalised.

    The significance of a token in ATS (Fayyaz et al., ECCV 2022), which takes patches alone; here the class token keeps
    its place in the row, so that everything after it is as for plain attention.
    """
    return [(_by_value_norms(teacher), _by_value_norms(student))]


def matched_blocks(student_depth: int, teacher_depth: int) -> list[int]:
    """The teacher's block for each block i of the student: ceil((i + 1) d_t / d_s) - 1. Last meets last."""
    return [-(-(block + 1) * teacher_depth // student_depth) - 1 for block in range(student_depth)]


def _by_value_norms(features: Features) -> Float[Tensor, "B H T"]:
    assert features.log_attention is not None
    assert features.value_norms is not None
    lengths = features.value_norms.clamp_min(torch.finfo(features.value_norms.dtype).tiny)
    return (features.log_attention + lengths.log()).log_softmax(dim=-1)

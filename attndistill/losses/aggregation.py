"""Attention aggregation over heads (AAG, paper sec. 3; alternatives in Table 10 b).

Everything is in log space: `log_attention` holds per-head log-probabilities over (class token, patches). So a head that
underflows to zero has a finite logarithm, and no gradient is NaN (the published code takes the log first and clamps
afterwards). Each aggregation ends with log_softmax(. / T): rows are log-probabilities again.

B batch, H heads, N tokens (class token and patches).
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from attndistill.losses import AGGREGATIONS


@AGGREGATIONS.register("geometric_mean")
def geometric_mean(
    log_attention: Float[Tensor, "B H N"], *, temperature: Annotated[float, Field(gt=0)] = 10.0
) -> Float[Tensor, "B 1 N"]:
    """AAG: agree across heads. softmax(sum_h log A_h / T): a token matters where every head looks."""
    return (log_attention.sum(dim=1, keepdim=True) / temperature).log_softmax(dim=-1)


@AGGREGATIONS.register("max")
def maximum(
    log_attention: Float[Tensor, "B H N"], *, temperature: Annotated[float, Field(gt=0)] = 10.0
) -> Float[Tensor, "B 1 N"]:
    """A token matters where any head looks: the largest log-probability over heads, counted H times, over T.

    Counting it H times keeps the scale of `geometric_mean`'s sum, so that T means the same.
    """
    heads = log_attention.shape[1]
    return (log_attention.amax(dim=1, keepdim=True) * heads / temperature).log_softmax(dim=-1)


@AGGREGATIONS.register("min")
def minimum(
    log_attention: Float[Tensor, "B H N"], *, temperature: Annotated[float, Field(gt=0)] = 10.0
) -> Float[Tensor, "B 1 N"]:
    """A token matters as little as its least interested head says; scaled like `max`."""
    heads = log_attention.shape[1]
    return (log_attention.amin(dim=1, keepdim=True) * heads / temperature).log_softmax(dim=-1)


@AGGREGATIONS.register("mean")
def arithmetic_mean(
    log_attention: Float[Tensor, "B H N"], *, temperature: Annotated[float, Field(gt=0)] = 10.0
) -> Float[Tensor, "B 1 N"]:
    """The average head: log of the mean probability, scaled like `max`."""
    heads = log_attention.shape[1]
    mean = torch.logsumexp(log_attention, dim=1, keepdim=True) - math.log(heads)
    return (mean * heads / temperature).log_softmax(dim=-1)


@AGGREGATIONS.register("none")
def head_to_head(log_attention: Float[Tensor, "B H N"]) -> Float[Tensor, "B H N"]:
    """No aggregation: heads are matched one to one; teacher and student need the same number of heads."""
    return log_attention

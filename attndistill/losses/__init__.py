"""The two losses of AttnDistill: projector alignment and attention guidance."""

from typing import Any

from attndistill.core.registry import Registry

AGGREGATIONS: Registry[Any] = Registry("head aggregation", "attndistill.losses.aggregation")
GUIDANCE: Registry[Any] = Registry("attention loss", "attndistill.losses.guidance")

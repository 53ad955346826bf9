"""The losses of AttnDistill: projector alignment, attention guidance, and the guidance it is compared with."""

from typing import Any

from attndistill.core.registry import Registry

AGGREGATIONS: Registry[Any] = Registry("head aggregation", "attndistill.losses.aggregation")
GUIDANCE: Registry[Any] = Registry("attention loss", "attndistill.losses.guidance")
SIGNALS: Registry[Any] = Registry("guidance signal", "attndistill.losses.signals")
EMBEDDING_LOSSES: Registry[Any] = Registry("embedding loss", "attndistill.losses.embedding")

"""The stages, each declared in a module of its own; this is their order."""

from attndistill.stages import attention, distill, export, fetch, prepare, pretrain, probe, report, targets
from attndistill.stages.declaration import Item, Stage

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE
    for module in (fetch, prepare, pretrain, targets, distill, probe, attention, report, export)
}

__all__ = ["STAGES", "Item", "Stage"]

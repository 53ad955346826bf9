"""Accuracy over the epochs of a training: a probe on test of what is trained, on the way (Fig. 7).

Models are stored at their end alone. The curve is shown; nothing is chosen by it.
"""

from typing import TYPE_CHECKING

from attndistill.data.manifest import read_manifest
from attndistill.data.store import ImageSet, validation_indices
from attndistill.evaluations.classifiers import logistic
from attndistill.evaluations.embedding import probe_data
from attndistill.results import ACCURACY

if TYPE_CHECKING:
    import torch

    from attndistill.runs import Look
    from attndistill.stages.context import Context

_PROBE = {"strengths": [1.0], "tolerance": 1e-4}


def accuracy_over(context: "Context", images: ImageSet, every: int | None, epochs: int) -> "Look | None":
    """Percent of test by logistic regression (C = 1, z-scored features), at every so many epochs and the last one.

    None where no curve is asked for, and where nobody has labels.
    """
    manifest = read_manifest(context.layout.data)
    if every is None or manifest.get("labelled") is False:
        return None
    test, validation = context.images("test"), validation_indices(context.layout.data)

    def look(seed: int, backbone: "torch.nn.Module", epoch: int) -> dict[str, float] | None:
        if epoch % every and epoch != epochs:
            return None
        features = probe_data(
            backbone,
            images,
            test,
            context.views,
            validation=validation,
            classes=len(manifest["class_names"]),
            crop_share=context.config.views.evaluation_crop,
            batch_size=context.execution.evaluation_batch_size,
            device=context.execution.device,
        )
        return {ACCURACY: logistic(features, **_PROBE).top1}

    return look

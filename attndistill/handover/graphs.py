"""A model as a graph that runs without its code: torch.export (.pt2) and ONNX, for any batch and one image size.

The example has a batch of 2: exporters take a batch of 1 for a constant. Both graphs are run at batches 1, 2 and 5.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attndistill.handover.heads import Head
from attndistill.handover.models import Finished
from attndistill.handover.timm_folder import check_outputs

Written = tuple[Callable[[Tensor], Tensor], dict[str, float]]
_BESIDE = 1_500_000_000  # bytes of weights from which they cannot be part of one ONNX file (its limit is 2 GiB)


def write_pt2(directory: Path, finished: Finished, head: Head | None, model: Any) -> Written:
    """Write model.pt2 of the model that timm opens. Returns it as it is read back, and the largest difference of its
    output for each batch size.

    Raises:
        ValueError: as `check_outputs`.
    """
    with _quiet():
        program = torch.export.export(model, _example(finished), dynamic_shapes=_FREE_BATCH)
        torch.export.save(program, directory / "model.pt2")
        read = torch.export.load(directory / "model.pt2").module()
    return read, check_outputs(finished, head, read, "model.pt2")


def write_onnx(directory: Path, finished: Finished, head: Head | None, model: Any) -> Written:
    """Write model.onnx, likewise.

    Raises:
        ValueError: the extra is not installed, or as `check_outputs`.
    """
    onnxruntime = check_onnx()
    example = _example(finished)
    path = directory / "model.onnx"
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with _quiet():
        torch.onnx.export(
            model,
            example,
            path,
            dynamo=True,
            opset_version=18,
            input_names=["images"],
            output_names=["features" if head is None else "logits"],
            dynamic_shapes=_FREE_BATCH,
            external_data=size > _BESIDE,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return run, check_outputs(finished, head, run, "model.onnx")


def check_onnx() -> Any:
    """onnxruntime. Raises ValueError where the optional extra is not installed."""
    try:
        return [import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    except ImportError as error:
        raise ValueError(f"ONNX needs {error.name}: pip install 'attndistill[onnx]'") from None


_FREE_BATCH = ({0: torch.export.Dim("batch", min=1)},)


def _example(finished: Finished) -> tuple[Tensor]:
    return (torch.zeros(2, 3, finished.image_size, finished.image_size),)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own insides."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)

"""An exported model as MLflow runs it: image files in, features out. A copy of this file goes along with every model.

It needs mlflow, timm and torch and nothing of this package. Images reach the model as they do in the stages: upright,
the central square, Pillow's bicubic filter.
"""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import timm
import torch
from mlflow.exceptions import MlflowException
from PIL import Image, ImageOps

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's other readers never see the bytes
_TOGETHER = 64  # images


class Features(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Reads a timm folder. Asked with a table whose column `image` holds files' bytes (in JSON: base64)."""

    def load_context(self, context: Any) -> None:
        """Open the folder: config.json and model.safetensors."""
        folder = Path(context.artifacts["model"])
        self.model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self.seen = json.loads((folder / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """(N, D) float32, a row for every image. MLflow would take annotations for a schema of its own."""
        files = list(model_input["image"])
        width = self.model.num_features
        rows = [np.empty((0, width), np.float32)]
        with torch.no_grad():
            for start in range(0, len(files), _TOGETHER):
                views = [self._view(place, files[place]) for place in range(start, min(start + _TOGETHER, len(files)))]
                rows.append(self.model(torch.stack(views)).numpy())
        return np.concatenate(rows)

    def _view(self, place: int, file: bytes) -> torch.Tensor:
        try:
            with Image.open(BytesIO(file), formats=_FORMATS) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise MlflowException.invalid_parameter_value(f"image {place}: no picture ({error})") from None
        size, share = self.seen["input_size"][1], self.seen["crop_pct"]
        side = max(1, round(min(picture.size) * share))
        left, top = ((length - side) // 2 for length in picture.size)
        square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(self.seen[name]).view(3, 1, 1) for name in ("mean", "std"))
        return (pixels - mean) / std


mlflow.models.set_model(Features())

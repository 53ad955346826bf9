"""A model as a folder that timm opens by itself: config.json and model.safetensors, without P.

`timm.create_model("local-dir:FOLDER", pretrained=True)` needs no code of ours. Of sizes that no timm name has, only
`model_args` reach the constructor, and only what JSON can say.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer

from attndistill.core.artifacts import write_json
from attndistill.handover.heads import Head
from attndistill.handover.models import Finished
from attndistill.models.description import Named, read_description
from attndistill.models.projector import state_of
from attndistill.models.readout import read_features
from attndistill.models.released import architecture_of

# any name of timm's plain ViTs takes every size as an argument; this one alone has a gated MLP
_PLAIN, _GATED = "vit_tiny_patch16_224", "vit_giant_patch14_dinov2"
BATCHES = (1, 2, 5)  # a batch of 1 is what exporters specialise on
TOLERANCE = 1e-5  # of the largest number


def write_timm_folder(
    directory: Path, finished: Finished, licence: str, head: Head | None = None
) -> tuple[Any, dict[str, float]]:
    """Write it and open it with timm.

    Args:
        directory: empty.
        finished: the model.
        licence: of the weights.
        head: what makes a classifier of it.

    Returns:
        The model as timm opens it, and the largest difference of its output for each batch size.

    Raises:
        ValueError: a model that timm cannot build by name, or that gives other features there.
    """
    backbone, views = finished.backbone, finished.config.views
    architecture, arguments = _recipe(finished)
    classes, pool, state = 0, "token", state_of(backbone)
    named: dict[str, Any] = {}
    if head is not None:
        classes, named = len(head.classes), {"label_names": list(head.classes)}
        state |= {f"head.{name}": tensor for name, tensor in head.linear.state_dict().items()}
        if head.pooled is not None:
            pool, state = "avg", state | {f"fc_norm.{name}": one for name, one in head.pooled.state_dict().items()}
            arguments = {key: value for key, value in arguments.items() if key != "final_norm"}
        arguments["global_pool"] = pool
    write_json(
        directory / "config.json",
        {
            "architecture": architecture,
            "num_classes": classes,
            "num_features": int(backbone.embed_dim),
            "global_pool": pool,
            **named,
            "model_args": arguments,
            "pretrained_cfg": {
                "tag": finished.name,
                "custom_load": False,
                "input_size": [3, finished.image_size, finished.image_size],
                "fixed_input_size": True,
                "interpolation": "bicubic",
                "crop_pct": views.evaluation_crop,
                "crop_mode": "center",
                "mean": list(views.mean),
                "std": list(views.std),
                "num_classes": classes,
                "pool_size": None,
                "first_conv": "patch_embed.proj",
                "classifier": "head",
                "license": licence,
            },
        },
    )
    weights = save({name: tensor.contiguous() for name, tensor in state.items()})
    (directory / "model.safetensors").write_bytes(weights)  # `save_file` makes a file that its owner alone reads
    try:
        model = timm.create_model(f"local-dir:{directory}", pretrained=True)
    except (RuntimeError, TypeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise ValueError(f"{finished.name}: timm builds no such model from its config.json ({problem})") from None
    model.eval()
    return model, check_outputs(finished, head, model, "the timm folder")


def _recipe(finished: Finished) -> tuple[str, dict[str, Any]]:
    """A timm name, and what it is to be given.

    Raises:
        ValueError: a model that needs more than JSON can say.
    """
    backbone: Any = finished.backbone
    if finished.path is not None and (finished.path / "model.json").exists():
        described = read_description(finished.path).vit
        if isinstance(described, Named):
            return described.timm_name, {"img_size": described.image_size, "global_pool": "token"}
    if not isinstance(backbone, VisionTransformer):
        raise ValueError(f"{finished.name}: rotary positions have no sizes by timm name; allowed: a plain ViT")
    found = architecture_of(
        backbone.state_dict(),
        num_heads=backbone.blocks[0].attn.num_heads,
        final_norm=not isinstance(backbone.norm, torch.nn.Identity),
        norm_eps=getattr(backbone.norm, "eps", 1e-6),
    )
    if found.norm_eps != 1e-6 or (found.gated and not found.layer_scale):
        raise ValueError(f"{finished.name}: its norms or its MLP are of no timm name; allowed: timm's own kinds of ViT")
    return _GATED if found.gated else _PLAIN, {
        "img_size": found.image_size,
        "patch_size": found.patch_size,
        "embed_dim": found.embed_dim,
        "depth": found.depth,
        "num_heads": found.num_heads,
        "mlp_ratio": (found.hidden + 0.5) / found.embed_dim,  # timm rounds the product down
        "global_pool": "token",
        **({"reg_tokens": found.registers} if found.registers else {}),
        **({} if found.cls_position else {"no_embed_class": True}),
        **({"init_values": 1.0} if found.layer_scale else {}),
        **({"qk_norm": True} if found.qk_norm else {}),
        **({} if found.qkv_bias else {"qkv_bias": False}),
        **({} if found.final_norm else {"final_norm": False}),
    }


def check_outputs(finished: Finished, head: Head | None, model: Any, what: str) -> dict[str, float]:
    """The largest difference between a model's output and what is judged here (the class token, or a head's answers
    to it), by batch size.

    Raises:
        ValueError: more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[str, float] = {}
    for batch in BATCHES:
        images = torch.randn(batch, 3, finished.image_size, finished.image_size, generator=generator)
        with torch.no_grad():
            wanted = head.logits(images) if head else read_features(finished.backbone, images).cls_token
            given = model(images)
        if tuple(given.shape) != tuple(wanted.shape):
            raise ValueError(f"{what}: its output is {tuple(given.shape)}, wanted {tuple(wanted.shape)}")
        found[str(batch)] = float((given - wanted).abs().max())
        if not found[str(batch)] <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise ValueError(f"{what}: its output is off by {found[str(batch)]:.2g} for a batch of {batch}")
    return found

"""Small released models in every layout of the public repositories, as those repositories save them."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 0}
VIT = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.0, "position": "sincos"}
State = dict[str, Tensor]


def backbone(seed: int = 0, **kind: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(**SIZES, **kind).eval()


def beneath(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def also(state: State, *names: str) -> State:
    return {**state, **{name: torch.ones(2, 2) for name in names}}


def halves(teacher: State, student: State, **more: Any) -> dict[str, Any]:
    """What is common to the full checkpoints: two halves, an optimizer, arguments."""
    args = argparse.Namespace(arch="vit_small", patch_size=8, lr=5e-4)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    return {"student": student, "teacher": teacher, "optimizer": optimizer, "epoch": 100, "args": args, **more}


def layouts() -> dict[str, Callable[[State], Any]]:
    """Name of a layout -> (teacher's state -> what its file holds). The student half is another model."""
    student = backbone(7).state_dict()
    head, mugs = "head.mlp.0.weight", ("relation_blocks.0.weight", "instance_head.weight", "group_head.weight")
    return {
        "dino backbone": lambda state: state,
        "dino full": lambda state: halves(
            beneath("backbone.", also(state)) | also({}, head),
            beneath("module.backbone.", student) | also({}, f"module.{head}"),
            dino_loss={"center": torch.zeros(1, 4)},
            fp16_scaler={"scale": 1.0},
        ),
        "dino full, teacher in data parallel": lambda state: halves(
            beneath("module.backbone.", state), beneath("module.backbone.", student), dino_loss={}
        ),
        "dino full, bare": lambda state: halves(also(state, head), student, dino_loss={}),
        "mae": lambda state: {"model": state},
        "mae with decoder": lambda state: {
            "model": also(state, "mask_token", "decoder_pos_embed", "decoder_norm.bias")
        },
        "ibot": lambda state: {"state_dict": also(state, "head.last_layer.weight", "masked_embed")},
        "ibot full": lambda state: halves(
            beneath("backbone.", also(state, "masked_embed")) | also({}, head),
            beneath("module.backbone.", student),
            ibot_loss={"center": torch.zeros(1, 4)},
        ),
        "mugs backbone": lambda state: {"state_dict": state},
        "mugs backbone with heads": lambda state: {"state_dict": also(state, *mugs)},
        "mugs full": lambda state: halves(
            beneath("backbone.", state) | also({}, *mugs),
            beneath("module.backbone.", student),
            student_mem={"queue": torch.zeros(2)},
            teacher_mem={"queue": torch.zeros(2)},
        ),
        "deit": lambda state: {"model": also(state, "head.weight", "head.bias")},
        "timm training": lambda state: {
            "epoch": 300,
            "arch": "vit_small_patch16_224",  # of another width than these weights: says nothing of their heads
            "state_dict": also(state, "head.weight", "head.bias"),
            "optimizer": {"state": {}, "param_groups": []},
            "version": 2,
            "args": argparse.Namespace(model="vit_small_patch16_224"),
            "metric": 79.5,
        },
        "timm with classifier": lambda state: also(state, "head.weight", "head.bias"),
    }


FORMATS = {
    "dino backbone": "dino_backbone",
    "dino full": "dino_full",
    "dino full, teacher in data parallel": "dino_full",
    "dino full, bare": "dino_full",
    "mae": "mae",
    "mae with decoder": "mae",
    "ibot": "ibot",
    "ibot full": "ibot_full",
    "mugs backbone": "mugs_backbone",
    "mugs backbone with heads": "mugs_backbone",
    "mugs full": "mugs_full",
    "deit": "supervised",
    "timm training": "supervised",
    "timm with classifier": "timm",
}

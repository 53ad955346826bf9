"""Every plain ViT that timm has: read from its shapes it is the same model, or it is refused. Never another one."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from attndistill.models.released import architecture_of

TOYS = {"test_vit"}  # heads of width 32: timm's own test model, never released


def traits(model: VisionTransformer) -> list[object]:
    """What its features depend on besides its tensors."""
    block = model.blocks[0]
    kinds = [type(part) for part in (block, block.attn, block.mlp, block.mlp.act, block.norm1, model.norm)]
    return [*kinds, block.attn.num_heads, block.attn.scale, block.norm1.eps, getattr(model.norm, "eps", None)]


@pytest.mark.slow
def test_a_timm_vit_is_read_as_itself_or_refused():
    read, other = set(), set()
    with torch.device("meta"):
        for name in sorted({*timm.list_models("*vit*"), *timm.list_models("deit*")} - TOYS):
            model = timm.create_model(name, num_classes=0)
            if type(model) is not VisionTransformer or model.cls_token is None:
                continue
            wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
            try:
                built = architecture_of(model.state_dict(), num_heads=None, final_norm=True).build()
            except ValueError:
                continue
            if {key: tensor.shape for key, tensor in built.state_dict().items()} != wanted:
                continue  # the strict load refuses it
            read.add(name)
            if traits(built) != traits(model):
                other.add(name)
    assert other == set()
    assert {"vit_small_patch8_224", "vit_huge_patch14_224", "vit_base_patch14_reg4_dinov2"} <= read

"""The transcript of docs/teachers.md: small models with random weights, each loaded or refused by the command line.

`python tests/models/teachers/transcript.py` writes it anew; a test holds the page against it. Digests are cut: they
change with the version of torch that saves the files.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import timm
import torch
from layouts import VIT, State, also, backbone, beneath, layouts
from safetensors.torch import save_file
from test_meta_and_transformers import meta_dinov3, rotary, transformers
from timm.models.vision_transformer import VisionTransformer

from attndistill.cli import main
from attndistill.models.projector import Projector, Student
from attndistill.models.storage import save_model
from attndistill.models.vit import build_vit

PAGE = Path(__file__).parents[3] / "docs/teachers.md"
START = "## A transcript\n"
FILES = {
    "dino_backbone": "dino backbone",
    "dino_full": "dino full",
    "mae": "mae with decoder",
    "ibot_teacher": "ibot",
    "ibot_full": "ibot full",
    "mugs_backbone": "mugs backbone with heads",
    "mugs_full": "mugs full",
    "deit": "deit",
    "timm_training": "timm training",
    "timm": "timm with classifier",
}
LOADED = [
    *(f"{name}.pth" for name in FILES),
    "attndistill_official.pth --num-heads 1",
    "own_student",
    "dinov2.safetensors",
    "dinov3.safetensors --timm-name vit_small_patch16_dinov3",
    "dinov2_vits14_reg4_pretrain.pth",
    "dinov3_vits16_pretrain.pth",
    "hf/model.safetensors",
    "with_ema.pth",
    "dino_full.pth --half student",
    "mae.pth --image-size 48 --resize-positions",
]
REFUSED = [
    "missing.pth",
    "left_over.pth",
    "twice.pth",
    "nan.pth",
    "clip.pth",
    "averaged.pth",
    "resnet.pth",
    "swin.pth",
    "moco.pth",
    "unknown.pth",
    "half.pth",
    "hostile.pth",
    "damaged.pth",
    "cut.pth",
    "page.pth",
    "none.pth",
    f"mae.pth --sha256 {'0' * 64}",
    "mae.pth --image-size 48",
    "mae.pth --num-heads 5",
    "mae.pth --half student",
    "own_student --num-heads 7",
    "own_student/model.safetensors",
    "mae.pth --format ibot",
    "dinov3.safetensors",
    "dino_backbone.pth --timm-name vit_tiny_patch16_224",
    "dino_backbone.pth --timm-name resnet18",
    "attndistill_official.pth",
]


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def write_files(directory: Path) -> None:
    state = backbone().state_dict()
    contents = {name: layouts()[layout](state) for name, layout in FILES.items()}
    for name, content in {**contents, **_odd(state)}.items():
        torch.save(content, directory / f"{name}.pth")
    whole = (directory / "mae.pth").read_bytes()
    (directory / "cut.pth").write_bytes(whole[:1000])
    middle = len(whole) // 2
    (directory / "damaged.pth").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    (directory / "page.pth").write_text("<!DOCTYPE html><title>Sign in</title>")
    student = Student(build_vit(32, 1, **VIT), Projector(64, 96, 2, seed=1))
    save_model(directory / "own_student", student, image_size=32, vit=VIT)
    dinov2 = backbone(init_values=1e-5, reg_tokens=4, no_embed_class=True)
    save_file(dinov2.state_dict(), directory / "dinov2.safetensors")
    meta_and_transformers(directory, state)
    dinov3 = timm.create_model("vit_small_patch16_dinov3", num_classes=0)
    save_file(dinov3.state_dict(), directory / "dinov3.safetensors")


def meta_and_transformers(directory: Path, state: State) -> None:
    registers = {"register_tokens": torch.ones(1, 4, 64), "mask_token": torch.zeros(1, 64)}
    torch.save(backbone(init_values=1e-5).state_dict() | registers, directory / "dinov2_vits14_reg4_pretrain.pth")
    torch.save(meta_dinov3(rotary(gated=False, bias=True)), directory / "dinov3_vits16_pretrain.pth")
    (directory / "hf").mkdir()
    save_file(transformers(state), directory / "hf/model.safetensors")
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": averaged}, directory / "with_ema.pth")


def _odd(state: State) -> dict[str, object]:
    """What is refused, and the published code's student, which is only loaded when its heads are given."""
    body = {name: tensor for name, tensor in state.items() if not name.startswith("norm.")}
    averaged = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=1,
        num_heads=1,
        num_classes=0,
        global_pool="avg",
        class_token=True,
    )
    return {
        "attndistill_official": {"model": also(body, "norm.weight", "student_norm.weight", "proj.0.weight")},
        "missing": {"model": {name: tensor for name, tensor in state.items() if name != "blocks.1.attn.qkv.bias"}},
        "left_over": {"model": also(state, "relation_blocks.0.weight")},
        "twice": {"teacher": {**state, **beneath("backbone.", state)}, "student": state, "dino_loss": {}},
        "nan": {**state, "norm.bias": torch.full((64,), torch.nan)},
        "clip": also(state, "norm_pre.weight", "norm_pre.bias"),
        "averaged": averaged.state_dict(),
        "resnet": {"model": {"layer1.0.conv1.weight": torch.ones(8, 3, 7, 7)}},
        "swin": {"model": {"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(169, 3)}},
        "moco": {"arch": "vit_small", "state_dict": beneath("module.base_encoder.", state)},
        "unknown": {"state": state},
        "half": {"student": state, "dino_loss": {}},
        "hostile": {"model": state, "args": Hostile()},
    }


def transcript(directory: Path) -> str:
    """What a terminal in `directory` shows."""
    write_files(directory)
    with contextlib.chdir(directory):
        loaded, refused = ([_session(line) for line in lines] for lines in (LOADED, REFUSED))
    assert not (directory / "ran").exists()
    intro = "Small models with random weights, saved in each layout; digests are cut to eight digits.\n"
    return "\n".join([START, intro, *loaded, "### Refusals\n", "Each with exit code 2.\n", *refused])


def _session(line: str) -> str:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(["inspect", *line.split()])
    assert code == (2 if errors.getvalue() else 0), line
    text = f"$ attndistill inspect {line}\n{out.getvalue()}{errors.getvalue()}"
    cut = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1...", text)
    return "".join(f"    {part}\n" for part in cut.splitlines())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        before = PAGE.read_text().partition(START)[0]
        PAGE.write_text(before + transcript(Path(place)))
    sys.stdout.write(f"{PAGE} written\n")

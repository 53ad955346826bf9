"""Every layout is recognised and loaded strictly; everything else is refused in one line."""

import hashlib

import pytest
import timm
import torch
from layouts import FORMATS, backbone, layouts
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from attndistill.models.readout import read_features
from attndistill.models.storage import load_model, save_model
from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.loading import Wanted, load_from_hub, load_teacher

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def same(loaded: torch.nn.Module, wanted: torch.nn.Module) -> bool:
    """Whether two backbones answer alike, to the last bit."""
    mine, theirs = read_features(loaded, IMAGES), read_features(wanted, IMAGES)
    return torch.equal(mine.cls_token, theirs.cls_token) and torch.equal(mine.log_attention, theirs.log_attention)


def refusal(path, **said) -> str:
    with pytest.raises(ValueError, match=": ") as caught:
        load_teacher(path, Wanted(**said))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", FORMATS)
def test_a_layout_is_recognised_and_gives_the_very_teacher(layout, saved, teacher):
    path = saved(layout)
    loaded = load_teacher(path, Wanted())
    assert loaded.report.format == FORMATS[layout]
    assert loaded.report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.report.tensors == len(teacher.state_dict())
    assert same(loaded.model, teacher)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_every_registered_format_has_a_layout_that_is_tested():
    assert set(TEACHER_FORMATS.names()) == {*FORMATS.values(), "attndistill_official"}


@pytest.mark.parametrize("layout", [name for name in FORMATS if "full" in name])
def test_the_student_half_is_another_model_and_is_taken_when_asked_for(layout, saved, teacher):
    loaded = load_teacher(saved(layout), Wanted(half="student"))
    assert loaded.report.half == "student"
    assert same(loaded.model, backbone(7))
    assert not same(loaded.model, teacher)


def test_what_is_dropped_is_named_with_its_reason(saved):
    report = load_teacher(saved("mae with decoder"), Wanted()).report
    assert set(report.dropped) == {"mask_token", "decoder_pos_embed", "decoder_norm.bias"}
    text = "\n".join(report.lines())
    assert "dropped   3 tensors, mask_token and so on: the masked autoencoder's decoder" in text
    assert "width 64, depth 2, 1 heads, patch 8, 32 px, 17 tokens, learnable positions" in text


def test_the_official_student_is_a_backbone_without_a_final_norm(official_student, teacher):
    loaded = load_teacher(official_student, Wanted())
    assert loaded.report.format == "attndistill_official"
    assert {name.split(".")[0] for name in loaded.report.dropped} == {"proj", "norm", "student_norm"}
    assert isinstance(loaded.model.norm, torch.nn.Identity)
    features, wanted = read_features(loaded.model, IMAGES), read_features(teacher, IMAGES)
    assert torch.equal(teacher.norm(features.cls_token), wanted.cls_token)


def test_a_student_of_this_package_is_a_teacher_too(own_student):
    path, student = own_student
    loaded = load_teacher(path, Wanted())
    assert loaded.report.format == "attndistill"
    assert loaded.report.position == "sincos"
    assert same(loaded.model, student.backbone)


KINDS = {
    "LayerScale and registers, as DINOv2": {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    "registers with positions": {"reg_tokens": 2},
    "qk-norm": {"qk_norm": True},
    "without qkv bias": {"qkv_bias": False},
    "norm before the blocks": {"pre_norm": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_architecture_is_read_from_the_shapes(kind, timm_file):
    model = backbone(3, **KINDS[kind])
    loaded = load_teacher(timm_file(model), Wanted())
    assert loaded.report.registers == KINDS[kind].get("reg_tokens", 0)
    assert same(loaded.model, model)


def test_a_rotary_model_is_loaded_under_its_timm_name_and_stored(timm_file, tmp_path):
    torch.manual_seed(2)
    model = timm.create_model("vit_small_patch16_dinov3", num_classes=0, img_size=32, depth=12).eval()
    path = timm_file(model)
    assert "give its timm name" in refusal(path)
    loaded = load_teacher(path, Wanted(timm_name="vit_small_patch16_dinov3", image_size=32, resize_positions=True))
    assert loaded.report.position == "rotary"
    assert any("registers are no patches" in note for note in loaded.report.notes)
    assert same(loaded.model, model)
    save_model(tmp_path / "stored", loaded.model, image_size=32, vit=loaded.rebuild)
    assert same(load_model(tmp_path / "stored")[0], model)


def test_a_loaded_teacher_is_stored_and_read_back(saved, teacher, tmp_path):
    loaded = load_teacher(saved("dino full"), Wanted())
    save_model(tmp_path / "stored", loaded.model, image_size=32, vit=loaded.rebuild)
    assert same(load_model(tmp_path / "stored")[0], teacher)


def test_positions_are_resampled_only_when_asked_for_and_the_report_says_so(saved, teacher):
    path = saved("dino backbone")
    assert "positions are for 32 px and images of 48 px were asked for; set resize_positions" in refusal(
        path, image_size=48
    )
    loaded = load_teacher(path, Wanted(image_size=48, resize_positions=True))
    assert any("resampled from 17 to 37 for 48 px" in note for note in loaded.report.notes)
    wanted = resample_abs_pos_embed(teacher.pos_embed, [6, 6], num_prefix_tokens=1)
    assert torch.equal(loaded.model.pos_embed, wanted)
    assert "patches of 8 px do not fill 50 px" in refusal(path, image_size=50, resize_positions=True)


def test_heads_are_of_width_64_unless_their_number_is_given(saved):
    path = saved("mae")
    assert load_teacher(path, Wanted()).report.num_heads == 1
    assert load_teacher(path, Wanted(num_heads=4)).report.num_heads == 4
    assert "num_heads 5 do not divide its width 64" in refusal(path, num_heads=5)


def test_another_digest_is_refused_before_anything_is_read(saved):
    path = saved("mae")
    message = refusal(path, sha256="0" * 64)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in message
    assert "nothing in it was read" in message


def damaged(layout: str, change) -> dict:
    state = dict(backbone().state_dict())
    change(state)
    return layouts()[layout](state)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("blocks.1.attn.qkv.bias"), "1 missing (blocks.1.attn.qkv.bias)"),
        (lambda state: state.update({"extra.weight": torch.ones(1)}), "1 left over (extra.weight)"),
        (lambda state: state.update({"norm.weight": torch.ones(3)}), "norm.weight is [3], wanted [64]"),
    ],
    ids=["missing", "left over", "another shape"],
)
def test_a_tensor_that_is_missing_or_left_over_is_an_error_in_every_layout(layout, change, said, tmp_path):
    path = tmp_path / "damaged.pth"
    torch.save(damaged(layout, change), path)
    message = refusal(path)
    assert said in message
    assert "tensors found, " in message


def test_half_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "half.pth"
    torch.save({"student": backbone().state_dict(), "teacher": None, "dino_loss": {}}, path)
    assert "has no teacher half; it has: student" in refusal(path)


def test_the_wrong_format_by_name_is_refused_with_the_one_it_looks_like(saved):
    assert "is not laid out as mae (it holds: state_dict); it looks like mugs_backbone" in refusal(
        saved("mugs backbone"), format="mae"
    )
    assert "unknown teacher format 'moco'; allowed: dino_full" in refusal(saved("mae"), format="moco")


def test_leftovers_name_the_format_that_would_explain_them(tmp_path):
    path = tmp_path / "strange.pth"
    torch.save({"model": {**backbone().state_dict(), "relation_blocks.0.weight": torch.ones(2, 64)}}, path)
    assert "1 left over (relation_blocks.0.weight); nearest known format: mugs_full" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weights": {}}, "of no known format (it holds: weights); known: dino_full"),
        ([1, 2], "holds a list"),
        ({"model": {"conv1.weight": torch.ones(8, 3, 7, 7)}}, "it is no vision transformer"),
        ({1: torch.ones(1)}, "not a mapping of names"),
    ],
    ids=["unknown keys", "list", "ResNet", "numbers for names"],
)
def test_what_is_no_vision_transformer_is_refused(content, said, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert said in refusal(path)


def test_a_model_without_a_class_token_is_refused(timm_file):
    model = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=1,
        num_heads=1,
        num_classes=0,
        class_token=False,
        global_pool="avg",
    )
    assert "no class token" in refusal(timm_file(model))


def test_files_that_are_not_there_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.pth")
    assert "model.json does not exist" in refusal(tmp_path)


def test_a_hub_that_cannot_be_reached_is_one_clear_line(monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: unreachable() if k["pretrained"] else real(*a, **k))
    with pytest.raises(ValueError, match=r"could not fetch its weights .*give its path"):
        load_from_hub("vit_tiny_patch16_224", Wanted())
    with pytest.raises(ValueError, match="timm has no model 'vit_tinny_patch16_224'"):
        load_from_hub("vit_tinny_patch16_224", Wanted())

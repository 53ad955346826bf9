"""Every layout is recognised and loaded strictly; everything else is refused in one line."""

import hashlib

import numpy as np
import pytest
import timm
import torch
from layouts import FORMATS, SIZES, backbone, beneath, layouts
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from attndistill.models.readout import read_features
from attndistill.models.released import architecture_of
from attndistill.models.storage import load_model, save_model
from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.loading import Wanted, load_from_hub, load_teacher

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


META_AND_TRANSFORMERS = {"attndistill_official", "dinov2", "dinov3", "transformers"}  # in test_meta_and_transformers.py


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
    assert set(TEACHER_FORMATS.names()) == {*FORMATS.values(), *META_AND_TRANSFORMERS}


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
    assert "different numbers of heads (Table 7: ViT-T has 3 or 6)" in refusal(official_student)
    loaded = load_teacher(official_student, Wanted(num_heads=1))
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


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"format": "mae"}, "format mae cannot be had of a folder of this package"),
        ({"half": "student"}, "half student cannot"),
        ({"timm_name": "vit_nope"}, "timm_name vit_nope cannot"),
        ({"num_heads": 7}, "num_heads 7 (it has 2) cannot"),
    ],
)
def test_what_a_stored_folder_contradicts_is_refused(said, message, own_student):
    assert message in refusal(own_student[0], **said)
    assert load_teacher(own_student[0], Wanted(num_heads=2)).report.num_heads == 2


def test_a_stored_folder_is_resized_when_asked_for_and_stored_again(own_student, saved, tmp_path):
    path, student = own_student
    assert "positions are for 32 px and images of 48 px were asked for; set resize" in refusal(path, image_size=48)
    loaded = load_teacher(path, Wanted(image_size=48, resize_positions=True))
    wanted = resample_abs_pos_embed(student.backbone.pos_embed, [6, 6], num_prefix_tokens=1)
    assert torch.equal(loaded.model.pos_embed, wanted)
    assert loaded.report.notes == ("position embedding resampled for 48 px in place of 32 px",)
    save_model(tmp_path / "larger", loaded.model, image_size=48, vit=loaded.rebuild)
    assert torch.equal(load_model(tmp_path / "larger")[0].pos_embed, wanted)
    released = load_teacher(saved("mae"), Wanted())
    save_model(tmp_path / "released", released.model, image_size=32, vit=released.rebuild)
    assert load_teacher(tmp_path / "released", Wanted(image_size=48, resize_positions=True)).report.tokens == 37


def test_the_weights_of_a_stored_folder_are_no_checkpoint_of_their_own(own_student):
    message = refusal(own_student[0] / "model.safetensors")
    assert f"give the folder, {own_student[0]}" in message


@pytest.mark.parametrize("layout", [name for name in FORMATS if "full" not in name])
def test_a_file_of_one_model_has_no_student_half(layout, saved):
    assert f"(read as {FORMATS[layout]}) holds one model: there is no student half" in refusal(
        saved(layout), half="student"
    )


KINDS = {
    "LayerScale and registers, as DINOv2": {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    "registers with positions": {"reg_tokens": 2},
    "qk-norm": {"qk_norm": True},
    "without qkv bias": {"qkv_bias": False},
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
    assert "position embedding resampled for 48 px in place of 32 px" in loaded.report.notes
    wanted = resample_abs_pos_embed(teacher.pos_embed, [6, 6], num_prefix_tokens=1)
    assert torch.equal(loaded.model.pos_embed, wanted)
    assert "patches of 8 px do not fill 50 px" in refusal(path, image_size=50, resize_positions=True)


def test_heads_are_of_width_64_unless_their_number_is_given(saved):
    path = saved("mae")
    assert load_teacher(path, Wanted()).report.num_heads == 1
    assert load_teacher(path, Wanted(num_heads=4)).report.num_heads == 4
    for wrong in (5, 0, -1):
        assert f"num_heads {wrong} do not divide its width 64" in refusal(path, num_heads=wrong)


def test_an_mlp_width_that_its_ratio_rounds_down_is_kept(timm_file):
    """448 x (488 / 448) is 487.99... in floating point."""
    model = VisionTransformer(**{**SIZES, "embed_dim": 448, "num_heads": 7, "depth": 1}, mlp_ratio=488.5 / 448).eval()
    assert model.blocks[0].mlp.fc1.out_features == 488
    assert same(load_teacher(timm_file(model), Wanted()).model, model)


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 16)])
def test_heads_of_released_sizes_are_those_of_timms_model(width, heads):
    name = {768: "vit_base_patch16_224.mae", 1024: "vit_large_patch16_224.mae", 1280: "vit_huge_patch14_224.mae"}[width]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    found = architecture_of(model.state_dict(), num_heads=None, final_norm=True)
    assert found.num_heads == model.blocks[0].attn.num_heads == heads


def test_a_norm_of_queries_tells_the_heads(timm_file):
    torch.manual_seed(0)
    model = VisionTransformer(**{**SIZES, "num_heads": 4}, qk_norm=True).eval()
    loaded = load_teacher(timm_file(model), Wanted())
    assert loaded.report.num_heads == 4
    assert not loaded.report.notes
    assert same(loaded.model, model)


@pytest.mark.parametrize("columns_first", [True, False], ids=["as MAE", "as timm"])
def test_fixed_positions_are_told_from_trained_ones(columns_first, timm_file):
    """MAE's position embedding: sin and cos of the column in the first half, of the row in the second (float64)."""
    row, column = (axis.reshape(-1, 1) for axis in np.mgrid[:4, :4].astype(np.float64))
    angles = [place / 10000 ** (np.arange(16) / 16) for place in ((column, row) if columns_first else (row, column))]
    fixed = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    model = backbone()
    with torch.no_grad():
        model.pos_embed[0, 0], model.pos_embed[0, 1:] = 0, torch.tensor(fixed)
    assert load_teacher(timm_file(model), Wanted()).report.position == "sincos"
    with torch.no_grad():
        model.pos_embed[0, 1:] = torch.tensor(fixed[::-1].copy())
    assert load_teacher(timm_file(model), Wanted()).report.position == "learnable"


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


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("norm.weight", torch.full((64,), float("nan")), "norm.weight holds NaN"),
        ("norm.weight", torch.ones(64, dtype=torch.int64), "norm.weight holds int64"),
        ("norm.weight", torch.ones(64, dtype=torch.complex64), "norm.weight holds complex64"),
        ("norm.weight", torch.ones(64).to_sparse(), "sparse_coo"),
        ("norm.weight", torch.ones(64, device="meta"), "on meta"),
        ("patch_embed.proj.weight", torch.zeros(1).expand(64000, 3, 8, 8), "fewer values repeated"),
        ("reg_token", torch.ones(4), "reg_token is [4]; wanted 3 dimensions"),
        ("blocks.0.mlp.fc1.weight", torch.tensor(1.0), "fc1.weight is []; wanted 2 dimensions"),
        ("blocks.3000.norm1.weight", torch.ones(64), "its 3 blocks are not numbered 0 to 2"),
        ("norm_pre.weight", torch.ones(64), "do not tell its activation; give its timm name"),
        ("fc_norm.weight", torch.ones(64), "norm.weight"),
    ],
)
def test_tensors_that_are_no_weights_are_refused_before_a_model_is_built(name, tensor, said, tmp_path):
    path, state = tmp_path / "odd.pth", dict(backbone().state_dict())
    if name == "fc_norm.weight":
        del state["norm.weight"]
        said = "its last norm follows the average over patches"
    torch.save({**state, name: tensor}, path)
    assert said in refusal(path)


def test_a_name_with_and_without_its_prefix_is_refused(tmp_path):
    state = backbone().state_dict()
    torch.save(
        {"teacher": {**beneath("backbone.", state), **state}, "student": {}, "dino_loss": {}}, tmp_path / "both.pth"
    )
    assert "twice, with and without a prefix" in refusal(tmp_path / "both.pth")


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "vit_medium_patch16_gap_240"])
def test_a_timm_name_of_something_that_cannot_be_read_is_refused(name, saved):
    assert f"{name}: " in refusal(saved("mae"), timm_name=name)
    with pytest.raises(ValueError, match=f"{name}: "):
        load_from_hub(name, Wanted())


def test_heads_that_contradict_the_timm_name_are_refused(saved):
    said = {"timm_name": "vit_tiny_patch16_224", "num_heads": 6}
    assert "num_heads 6, but vit_tiny_patch16_224 has 3" in refusal(saved("mae"), **said)


def test_a_file_is_judged_by_its_content_and_not_by_its_name(teacher, saved, timm_file, tmp_path):
    safetensors, torches = tmp_path / "weights.bin", tmp_path / "weights.safetensors"
    timm_file(teacher).rename(safetensors)
    saved("mae").rename(torches)
    assert load_teacher(safetensors, Wanted()).report.format == "timm"
    assert load_teacher(torches, Wanted()).report.format == "mae"
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><title>Not found</title>")
    assert "is a web page" in refusal(tmp_path / "page.pth")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a Git LFS pointer" in refusal(tmp_path / "pointer.pth")


def test_half_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "half.pth"
    torch.save({"student": backbone().state_dict(), "teacher": None, "dino_loss": {}}, path)
    assert "has no teacher half; it has: student" in refusal(path)


def test_the_wrong_format_by_name_is_refused_with_the_one_it_looks_like(saved):
    assert "is not laid out as mae (it holds: state_dict); it fits mugs_backbone" in refusal(
        saved("mugs backbone"), format="mae"
    )
    assert "unknown teacher format 'moco'; allowed: dino_full" in refusal(saved("mae"), format="moco")


def test_a_file_of_timms_training_has_the_heads_of_the_model_it_names(tmp_path):
    state, path = backbone().state_dict(), tmp_path / "last.pth.tar"
    said = {"test_vit": 2, "resnet18": 1, "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k": 1, "my_own": 1}
    for arch, heads in said.items():
        torch.save({"arch": arch, "state_dict": {**state, "head.weight": torch.ones(10, 64)}}, path)
        report = load_teacher(path, Wanted()).report
        assert (report.format, report.num_heads) == ("supervised", heads)
        assert report.dropped == {"head.weight": "the classifier"}
    torch.save({"arch": "test_vit", "state_dict": {**state, "head.weight": torch.ones(10, 64)}}, path)
    assert load_teacher(path, Wanted()).report.notes == ("2 heads, as timm's test_vit, which the file calls itself",)
    assert load_teacher(path, Wanted(num_heads=4)).report.num_heads == 4


def test_a_classifier_of_averaged_patches_is_refused_wrapped_or_not(tmp_path):
    state = {
        name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: tensor
        for name, tensor in backbone().state_dict().items()
    }
    torch.save({"model": {**state, "head.weight": torch.ones(10, 64)}}, tmp_path / "finetuned.pth")
    assert "its last norm follows the average over patches" in refusal(tmp_path / "finetuned.pth")


def test_a_distillation_token_is_named(tmp_path):
    state = {**backbone().state_dict(), "dist_token": torch.ones(1, 1, 64), "head.weight": torch.ones(10, 64)}
    torch.save({"model": state}, tmp_path / "distilled.pth")
    assert "it has a distillation token beside the class token" in refusal(tmp_path / "distilled.pth")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["model.", "backbone.", "module.base_encoder."])
def test_a_prefix_that_no_format_has_is_named(wrapper, prefix, tmp_path):
    state = beneath(prefix, backbone().state_dict())
    torch.save({wrapper: state} if wrapper else state, tmp_path / "moco.pth")
    assert f"its names start with {prefix!r}, which no known format has" in refusal(tmp_path / "moco.pth")


def test_every_prefix_is_named_where_a_file_holds_several_models(tmp_path):
    state = backbone().state_dict()
    both = {**beneath("module.base_encoder.", state), **beneath("module.momentum_encoder.", state)}
    torch.save({"state_dict": both, "arch": "vit_small"}, tmp_path / "moco.pth")
    assert "start with 'module.base_encoder.' (and module.momentum_encoder.)" in refusal(tmp_path / "moco.pth")


@pytest.mark.parametrize("left", ["head.1.weight", "relation_blocks.0.weight", "decoder.weight"])
def test_no_format_is_recommended_that_does_not_fit(left, tmp_path):
    path = tmp_path / "strange.pth"
    torch.save({"model": {**backbone().state_dict(), left: torch.ones(10, 64)}}, path)
    for said in ("auto", "mae", "ibot", "dino_backbone"):
        message = refusal(path, format=said)
        assert "looks like" not in message
        assert "fits" not in message
        assert "nearest" not in message


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
    assert "none of model.json, model.safetensors.index.json" in refusal(tmp_path)


def test_a_model_of_the_hub_is_resized_only_when_asked_for(monkeypatch):
    """The hub is stood in for by random weights: what is shown is what happens to them."""
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: real(name, **options))
    name = "vit_small_patch14_reg4_dinov2"
    with pytest.raises(ValueError, match="positions are for 518 px and images of 70 px were asked for"):
        load_from_hub(name, Wanted(image_size=70))
    loaded = load_from_hub(name, Wanted(image_size=70, resize_positions=True))
    assert loaded.report.tokens == 1 + 4 + 25
    assert loaded.report.notes[0] == "position embedding resampled for 70 px in place of 518 px"
    assert loaded.rebuild == {"timm_name": name, "image_size": 70}


def test_weights_from_the_hub_are_named_by_a_digest_of_their_tensors(monkeypatch):
    real = timm.create_model
    state: dict[str, float] = {"value": 0.5}

    def fetched(name: str, pretrained: bool, **options: object) -> torch.nn.Module:
        model = real(name, **options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(state["value"])
        return model

    monkeypatch.setattr(timm, "create_model", fetched)
    digests = [load_from_hub("test_vit", Wanted()).report.sha256 for _ in range(2)]
    state["value"] = 0.25
    report = load_from_hub("test_vit", Wanted()).report
    assert digests[0] == digests[1] != report.sha256
    assert report.lines()[1] == f"sha256    {report.sha256} (of names and tensors: timm fetched them)"


def test_a_hub_that_cannot_be_reached_is_one_clear_line(monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: unreachable() if k["pretrained"] else real(*a, **k))
    with pytest.raises(ValueError, match=r"could not fetch its weights .*give its path"):
        load_from_hub("vit_tiny_patch16_224", Wanted())
    with pytest.raises(ValueError, match="timm has no model 'vit_tinny_patch16_224'"):
        load_from_hub("vit_tinny_patch16_224", Wanted())

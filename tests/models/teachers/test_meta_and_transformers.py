"""Meta's DINOv2 and DINOv3 and transformers' layouts: held against timm's models, or a plain forward, in float64."""

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from layouts import State, backbone, beneath
from safetensors.torch import save_file
from timm.layers import LayerNorm
from timm.models.eva import Eva
from torch.nn import functional as F

from attndistill.models.readout import read_features
from attndistill.models.storage import load_model, save_model
from attndistill.models.teachers.loading import Wanted, load_teacher
from attndistill.models.teachers.sizes import sizes_of_file

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DINOV2 = {"init_values": 0.5}
PARTS = ("query", "key", "value")


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def drawn(state: State, scale: float = 0.2) -> State:
    """Other values than those of the start, where biases and LayerScale would not show."""
    generator = torch.Generator().manual_seed(1)
    return {name: tensor + scale * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


def close(loaded: torch.nn.Module, wanted: torch.Tensor) -> bool:
    return torch.allclose(read_features(loaded.double(), IMAGES).cls_token, wanted, rtol=1e-9, atol=1e-9)


def plain_forward(state: State, heads: int, registers: str = "", eps: float = 1e-6) -> torch.Tensor:
    """The class token of a ViT by the definition, names as Meta's DINOv2 has them (written apart from timm)."""
    if registers:  # timm adds the class token's position to it, in the precision of the file
        state = {**state, "cls_token": state["cls_token"] + state["pos_embed"][:, :1]}
    w = {name: tensor.double() for name, tensor in state.items()}
    if registers:
        w["pos_embed"][:, 0] = 0
    patches = F.conv2d(IMAGES, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8)
    patches = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([w["cls_token"].expand(2, -1, -1), patches], dim=1) + w["pos_embed"]
    if registers:
        tokens = torch.cat([tokens[:, :1], w[registers].expand(2, -1, -1), tokens[:, 1:]], dim=1)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    for block in ("blocks.0.", "blocks.1."):
        x = norm(tokens, f"{block}norm1")
        q, k, v = F.linear(x, w[f"{block}attn.qkv.weight"], w[f"{block}attn.qkv.bias"]).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        mixed = F.linear(mixed, w[f"{block}attn.proj.weight"], w[f"{block}attn.proj.bias"])
        tokens = tokens + mixed * w.get(f"{block}ls1.gamma", 1)
        x = norm(tokens, f"{block}norm2")
        if f"{block}mlp.w12.weight" in w:
            gate, value = F.linear(x, w[f"{block}mlp.w12.weight"], w[f"{block}mlp.w12.bias"]).chunk(2, dim=-1)
            x = F.linear(F.silu(gate) * value, w[f"{block}mlp.w3.weight"], w[f"{block}mlp.w3.bias"])
        else:
            x = F.gelu(F.linear(x, w[f"{block}mlp.fc1.weight"], w[f"{block}mlp.fc1.bias"]))
            x = F.linear(x, w[f"{block}mlp.fc2.weight"], w[f"{block}mlp.fc2.bias"])
        tokens = tokens + x * w.get(f"{block}ls2.gamma", 1)
    return norm(tokens, "norm")[:, 0]


def dinov2(registers: int = 0, *, chunked: bool = False, gated: bool = False) -> State:
    """As Meta releases it."""
    state = drawn(backbone(**DINOV2).state_dict()) | {"mask_token": torch.ones(1, 64)}
    if registers:
        state["register_tokens"] = torch.randn(1, registers, 64)
    if gated:
        for block in range(2):
            for kind in ("weight", "bias"):
                fc1, fc2 = (state.pop(f"blocks.{block}.mlp.{name}.{kind}") for name in ("fc1", "fc2"))
                state[f"blocks.{block}.mlp.w12.{kind}"] = fc1
                state[f"blocks.{block}.mlp.w3.{kind}"] = fc2[:, :128] if kind == "weight" else fc2
    named = {re.sub(r"^blocks\.", "blocks.0.", name) if chunked else name: tensor for name, tensor in state.items()}
    return {name: tensor.contiguous() for name, tensor in named.items()}


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("chunked", [False, True], ids=["plain", "chunked"])
def test_meta_s_dinov2_is_the_model_that_its_definition_says(registers, chunked, gated, tmp_path):
    path = saved(tmp_path / "dinov2_vits14_pretrain.pth", dinov2(registers, chunked=chunked, gated=gated))
    loaded = load_teacher(path, Wanted())
    plain = dinov2(registers, gated=gated)
    torch.manual_seed(0)
    assert (loaded.report.format, loaded.report.registers) == ("dinov2", registers)
    assert loaded.report.dropped == {"mask_token": "the embedding of masked patches"}
    stored = torch.load(path)
    plain |= {"register_tokens": stored["register_tokens"]} if registers else {}
    assert close(loaded.model, plain_forward(plain, 1, "register_tokens" if registers else ""))


@pytest.mark.parametrize("half", ["teacher", "student"])
def test_a_checkpoint_of_dinov2_s_training_gives_the_half_that_is_asked_for(half, tmp_path):
    teacher, student = dinov2(chunked=True), {name: tensor + 1 for name, tensor in dinov2(chunked=True).items()}
    whole = {**beneath("teacher.backbone.", teacher), **beneath("student.backbone.", student)}
    path = saved(tmp_path / "model_final.pth", {"model": whole | {"teacher.dino_head.w": torch.ones(2, 2)}})
    loaded = load_teacher(path, Wanted(half=half))
    assert (loaded.report.format, loaded.report.half) == ("dinov2", half)
    assert torch.equal(loaded.model.cls_token, (teacher if half == "teacher" else student)["cls_token"])


def test_a_teacher_alone_of_dinov2_s_training_has_no_student(tmp_path):
    content = {"teacher": beneath("backbone.", dinov2()) | {"dino_head.mlp.0.weight": torch.ones(4, 64)}}
    path = saved(tmp_path / "teacher_checkpoint.pth", content)
    assert load_teacher(path, Wanted()).report.half == "teacher"
    with pytest.raises(ValueError, match=r"teacher_checkpoint\.pth"):
        load_teacher(path, Wanted(half="student"))


def rotary(*, gated: bool, bias: bool) -> Eva:
    """A small DINOv3 of timm's."""
    torch.manual_seed(3)
    model = Eva(
        img_size=32,
        patch_size=8,
        embed_dim=128,
        depth=2,
        num_heads=2,
        num_classes=0,
        qkv_bias=bias,
        mlp_ratio=2.0,
        swiglu_mlp=gated,
        swiglu_align_to=8 * gated,
        init_values=0.5,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        rope_type="dinov3",
        rope_temperature=100.0,
        rope_rotate_half=True,
        num_reg_tokens=4,
        use_fc_norm=False,
        dynamic_img_size=True,
        norm_layer=lambda width, **more: LayerNorm(width, eps=1e-5, **more),
        global_pool="token",
    )
    model.load_state_dict(drawn(model.state_dict()))
    return model.eval()


def meta_dinov3(model: Eva) -> State:
    """Its weights as Meta releases them."""
    names = {"reg_token": "storage_tokens", "gamma_": "ls", "fc1_g": "w1", "fc1_x": "w2"}
    found: State = {"mask_token": torch.zeros(1, 128)}
    gated = any("fc1_g" in name for name in model.state_dict())
    for given, tensor in model.state_dict().items():
        name = given
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"(ls[12])$", r"\1.gamma", name.replace("fc2", "w3") if gated else name)
        if name.endswith("q_bias"):
            value = model.state_dict()[given.replace("q_bias", "v_bias")]
            bias = name.replace("q_bias", "qkv.bias")
            found[bias] = torch.cat([tensor, torch.full((128,), 9.0), value])  # masked: what is there does not count
            found[f"{bias}_mask"] = torch.cat([torch.ones(128), torch.zeros(128), torch.ones(128)])
        elif not name.endswith("v_bias"):
            found[name] = tensor
    found["rope_embed.periods"] = (100.0 ** (torch.arange(16) / 16)).bfloat16()
    return found


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "masked bias"])
def test_meta_s_dinov3_is_timm_s_model(gated, bias, tmp_path):
    model = rotary(gated=gated, bias=bias)
    path = saved(tmp_path / "dinov3_vits16_pretrain.pth", meta_dinov3(model))
    loaded = load_teacher(path, Wanted(image_size=32))
    report = loaded.report
    assert (report.format, report.num_heads, report.registers, report.position) == ("dinov3", 2, 4, "rotary")
    save_model(tmp_path / "stored", loaded.model, image_size=32, vit=loaded.rebuild)
    wanted = model.double()(IMAGES)
    assert close(loaded.model, wanted)
    assert close(load_model(tmp_path / "stored")[0], wanted)


def test_dinov3_says_its_heads_and_contradiction_is_refused(tmp_path):
    path = saved(tmp_path / "dinov3.pth", meta_dinov3(rotary(gated=False, bias=True)))
    with pytest.raises(ValueError, match="num_heads 4, but the file says 2"):
        load_teacher(path, Wanted(num_heads=4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_embed.periods": torch.linspace(1, 9, 16)}, "periods are not the powers of one temperature"),
        ({"cls_norm.weight": torch.ones(128)}, r"1 left over \(cls_norm.weight\)"),
        ({"blocks.0.attn.qkv.bias_mask": torch.ones(384)}, "keys have a bias"),
    ],
)
def test_a_dinov3_that_timm_s_model_would_compute_otherwise_is_refused(change, said, tmp_path):
    path = saved(tmp_path / "dinov3.pth", meta_dinov3(rotary(gated=False, bias=True)) | change)
    with pytest.raises(ValueError, match=said):
        load_teacher(path, Wanted())


def transformers(state: State, *, prefix: str = "", second: bool = False) -> State:
    """timm's names -> transformers' of ViT, or of DINOv2 (`second`)."""
    names = {
        r"^(cls_token|mask_token|register_tokens)": r"embeddings.\1",
        r"^pos_embed": "embeddings.position_embeddings",
        r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
        r"^norm\.": "layernorm.",
        r"^blocks\.(\d+)": r"encoder.layer.\1",
        r"attn\.proj": "attention.output.dense",
        r"ls([12])\.gamma": r"layer_scale\1.lambda1",
        r"mlp\.w12": "mlp.weights_in",
        r"mlp\.w3": "mlp.weights_out",
    }
    first = {
        r"\.norm1": ".layernorm_before",
        r"\.norm2": ".layernorm_after",
        r"mlp\.fc1": "intermediate.dense",
        r"mlp\.fc2": "output.dense",
    }
    found = {}
    for given, tensor in state.items():
        name = given
        for ours, theirs in (names if second else names | first).items():
            name = re.sub(ours, theirs, name)
        if "attn.qkv" in name:
            for part, values in zip(PARTS, tensor.chunk(3), strict=True):
                found[prefix + name.replace("attn.qkv", f"attention.attention.{part}")] = values.contiguous()
        else:
            found[prefix + name] = tensor.contiguous()
    return found


CONFIG = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "gelu"}


def folder(place: Path, state: State, **config: object) -> Path:
    place.mkdir()
    save_file(state, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return place


@pytest.mark.parametrize(
    "more",
    [{}, {"pooler.dense.weight": torch.ones(64, 64)}, {"embeddings.mask_token": torch.ones(1, 1, 64)}],
    ids=["bare", "pooler", "mask token"],
)
def test_transformers_vit_is_the_model_that_its_definition_and_config_say(more, tmp_path):
    state = drawn(backbone().state_dict())
    place = folder(tmp_path / "vit", transformers(state) | more, layer_norm_eps=1e-3)
    loaded = load_teacher(place, Wanted())
    assert (loaded.report.format, loaded.report.num_heads) == ("transformers", 4)
    assert loaded.report.notes == ()
    assert close(loaded.model, plain_forward(state, 4, eps=1e-3))
    alone = load_teacher(place / "model.safetensors", Wanted(num_heads=4))
    assert "epsilon of the norms 1e-12, transformers' default" in alone.report.notes[0]
    assert close(alone.model, plain_forward(state, 4, eps=1e-12))


def test_transformers_masked_autoencoder_loses_its_decoder_alone(tmp_path):
    state = drawn(backbone().state_dict())
    content = transformers(state, prefix="vit.") | {"decoder.decoder_pos_embed": torch.ones(1, 17, 8)}
    loaded = load_teacher(saved(tmp_path / "pytorch_model.bin", content), Wanted())
    assert loaded.report.dropped == {"decoder.decoder_pos_embed": "the decoder of masked patches"}
    assert close(loaded.model, plain_forward(state, 1, eps=1e-12))


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
def test_transformers_dinov2_is_the_model_that_its_definition_says(registers, gated, tmp_path):
    state = dinov2(registers, gated=gated)
    prefix = "dinov2_with_registers." if registers else "dinov2."
    content = transformers(state, prefix=prefix, second=True) | {"classifier.weight": torch.ones(10, 128)}
    save_file(content, tmp_path / "model.safetensors")
    loaded = load_teacher(tmp_path / "model.safetensors", Wanted())
    assert (loaded.report.format, loaded.report.registers) == ("transformers", registers)
    assert close(loaded.model, plain_forward(state, 1, "register_tokens" if registers else ""))


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
def test_transformers_dinov3_is_timm_s_model(gated, tmp_path):
    model = rotary(gated=gated, bias=True)
    names = {
        r"^(cls_token|reg_token)": r"embeddings.\1",
        "reg_token": "register_tokens",
        r"patch_embed\.proj": "embeddings.patch_embeddings",
        r"^blocks": "layer",
        r"attn\.proj": "attention.o_proj",
        r"attn\.([qv])_bias": r"attention.\1_proj.bias",
        r"gamma_([12])": r"layer_scale\1.lambda1",
        r"mlp\.fc1_g": "mlp.gate_proj",
        r"mlp\.fc1(_x)?": "mlp.up_proj",
        r"mlp\.fc2": "mlp.down_proj",
    }
    content: State = {"embeddings.mask_token": torch.ones(1, 1, 128)}
    for given, tensor in model.state_dict().items():
        name = given
        for ours, theirs in names.items():
            name = re.sub(ours, theirs, name)
        if "attn.qkv" in name:
            for part, values in zip("qkv", tensor.chunk(3), strict=True):
                content[name.replace("attn.qkv", f"attention.{part}_proj")] = values.contiguous()
        else:
            content[name] = tensor
    config = {"hidden_size": 128, "num_attention_heads": 2, "rope_theta": 100.0, "layer_norm_eps": 1e-5}
    act = "silu" if gated else "gelu"
    loaded = load_teacher(folder(tmp_path / "v3", content, **config, hidden_act=act), Wanted(image_size=32))
    assert (loaded.report.format, loaded.report.position) == ("transformers", "rotary")
    assert close(loaded.model, model.double()(IMAGES))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_size": 65}, "config.json says hidden_size 65, its tensors have 64"),
        ({"num_hidden_layers": 3}, "config.json says layers 3, its tensors have 2"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'; allowed: gelu"),
        ({"num_attention_heads": 5}, "num_heads 5 do not divide its width 64"),
        ({"num_attention_heads": -1}, "config.json: num_attention_heads: Input should be greater than 0"),
        ({"layer_norm_eps": "small"}, "config.json: layer_norm_eps: "),
    ],
)
def test_a_config_that_contradicts_its_tensors_is_refused(config, said, tmp_path):
    place = folder(tmp_path / "vit", transformers(backbone().state_dict()), **config)
    with pytest.raises(ValueError, match=re.escape(said)):
        load_teacher(place, Wanted())


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    state, place = transformers(backbone().state_dict()), tmp_path / "sharded"
    place.mkdir()
    names, index = list(state), {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, place / file)
        index |= dict.fromkeys(part, file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return place


def change_index(place: Path, change: dict[str, str]) -> None:
    path = place / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= change
    path.write_text(json.dumps(index))


def test_shards_are_read_by_their_index_or_folder(sharded):
    by_folder = load_teacher(sharded, Wanted())
    by_index = load_teacher(sharded / "model.safetensors.index.json", Wanted())
    assert by_folder.report.sha256 == by_index.report.sha256
    assert torch.equal(by_folder.model.cls_token, backbone().cls_token)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": "../elsewhere.safetensors"}, "is named as one of its files; allowed: a name, without a folder"),
        ({"x": "/etc/passwd"}, "is named as one of its files"),
        ({"x": "..\\elsewhere"}, "is named as one of its files"),
        ({"x": ".."}, "is named as one of its files|a folder"),
        ({"x": "none.safetensors"}, "no such file"),
        ({"x": "model-00001-of-00002.safetensors"}, "is not the one that its index describes: x is in one"),
    ],
)
def test_an_index_that_leads_elsewhere_or_lies_is_refused(change, said, sharded):
    change_index(sharded, change)
    with pytest.raises(ValueError, match=said):
        load_teacher(sharded, Wanted())


def test_a_link_out_of_the_folder_is_refused_and_the_hub_s_cache_is_read(sharded, tmp_path):
    shard = sharded / "model-00002-of-00002.safetensors"
    shutil.move(shard, tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ValueError, match="is a link that leads out of its folder"):
        load_teacher(sharded, Wanted())
    cache = tmp_path / "models--x" / "snapshots" / "1"
    shutil.copytree(sharded, cache)
    (tmp_path / "models--x" / "blobs").mkdir()
    for number, file in enumerate(cache.glob("*.safetensors")):
        blob = tmp_path / "models--x" / "blobs" / str(number)
        shutil.move(file, blob)
        file.symlink_to(blob)
    assert load_teacher(cache, Wanted()).report.format == "transformers"


@pytest.mark.parametrize("name", ["x.dist_token", "vision_model.encoder.layers.0.mlp.fc1.weight"])
def test_what_is_known_and_not_read_is_named(name, tmp_path):
    what = {"x": "distillation token", "v": "CLIP"}[name[0]]
    with pytest.raises(ValueError, match=f"{what}.*not read"):
        load_teacher(saved(tmp_path / "other.pth", {name: torch.ones(4, 4)}), Wanted())


@pytest.mark.parametrize(
    ("timm_name", "what"),
    [
        ("swin_tiny_patch4_window7_224", "Swin"),
        ("convnext_atto", "ConvNeXt"),
        ("resnet18", "ResNet"),
        ("deit_tiny_distilled_patch16_224", "distillation token"),
    ],
)
def test_models_of_other_kinds_are_named_by_their_kind(timm_name, what, tmp_path):
    state = timm.create_model(timm_name, num_classes=0).state_dict()
    with pytest.raises(ValueError, match=f"{what}.*not read"):
        load_teacher(saved(tmp_path / "other.pth", state), Wanted())


@pytest.mark.parametrize(
    ("key", "wrapper"), [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("ema", "model")]
)
def test_averaged_weights_beside_are_named_and_given_when_asked_for(key, wrapper, tmp_path):
    state, averaged = backbone(0).state_dict(), backbone(1).state_dict()
    path = saved(tmp_path / "both.pth", {wrapper: state, key: averaged, "epoch": 3})
    plain, ema = (load_teacher(path, Wanted(weights=weights)) for weights in ("plain", "ema"))
    assert f"averaged weights lie beside these (under {key})" in plain.report.notes[0]
    assert torch.equal(plain.model.cls_token, state["cls_token"])
    assert f"the averaged weights (under {key}), as asked for" in ema.report.notes[0]
    assert torch.equal(ema.model.cls_token, averaged["cls_token"])
    alone = saved(tmp_path / "alone.pth", {wrapper: state})
    with pytest.raises(ValueError, match="holds no averaged weights"):
        load_teacher(alone, Wanted(weights="ema"))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_names_of_torch_s_own_wrappers_change_nothing(prefix, tmp_path):
    path = saved(tmp_path / "wrapped.pth", {"model": beneath(prefix, backbone().state_dict())})
    report = load_teacher(path, Wanted()).report
    assert report.format == "mae"
    assert report.notes[0] == "named without torch's wrappers around it"


def test_sizes_are_read_without_weights_and_without_torch(tmp_path, sharded):
    import subprocess
    import sys

    save_file(dinov2(4, gated=True), tmp_path / "dinov2.safetensors")
    code = (
        "import sys; from attndistill.models.teachers.sizes import sizes_of_file as s; "
        "print(s({'name': 'checkpoint', 'path': sys.argv[1]}), 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    for path, ratio in ((tmp_path / "dinov2.safetensors", 2.0), (sharded, 4.0)):
        said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        sizes = {"embed_dim": 64, "depth": 2, "num_heads": 1, "patch_size": 8, "mlp_ratio": ratio}
        assert said.stdout.strip() == f"{sizes} False False"


def test_sizes_of_every_kind_of_source_are_those_of_its_report(tmp_path):
    state = dinov2(4)
    paths = [
        saved(tmp_path / "dinov2.pth", state),
        saved(tmp_path / "dinov3.pth", meta_dinov3(rotary(gated=True, bias=True))),
        folder(tmp_path / "vit", transformers(backbone().state_dict())),
    ]
    loaded = load_teacher(paths[1], Wanted(image_size=32))
    save_model(tmp_path / "stored", loaded.model, image_size=32, vit=loaded.rebuild)
    for path in (*paths, tmp_path / "stored"):
        report = load_teacher(path, Wanted()).report.plain()
        sizes = sizes_of_file({"name": "checkpoint", "path": str(path)})
        assert {name: report[name] for name in sizes if name != "mlp_ratio"} | {
            "mlp_ratio": sizes["mlp_ratio"]
        } == sizes
    assert sizes_of_file({"name": "timm", "timm_name": "vit_tiny_patch16_224"})["num_heads"] == 3
    with pytest.raises(ValueError, match="no such file"):
        sizes_of_file({"name": "checkpoint", "path": str(tmp_path / "none.pth")})

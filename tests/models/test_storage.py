"""Stored models: what is written is read back bit for bit, timm takes it, and anything else is refused."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from attndistill.core.artifacts import file_digest
from attndistill.models.description import weights_digest
from attndistill.models.projector import Projector, Student
from attndistill.models.storage import load_model, save_model
from attndistill.models.vit import build_vit

VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "sincos"}


@pytest.fixture
def student() -> Student:
    return Student(build_vit(16, 1, **VIT), Projector(16, 24, 3, seed=1))


@pytest.fixture
def stored(tmp_path: Path, student: Student) -> Path:
    save_model(tmp_path / "student", student, image_size=16, vit=VIT)
    return tmp_path / "student"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_student_comes_back_bit_for_bit_in_evaluation_mode(stored, student):
    backbone, projector = load_model(stored)
    for mine, theirs in ((student.backbone, backbone), (student.projector, projector)):
        assert not theirs.training
        wanted, found = mine.state_dict(), theirs.state_dict()
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_backbone_alone_comes_back_without_a_projector(tmp_path):
    vit = build_vit(16, 2, **VIT)
    save_model(tmp_path, vit, image_size=16, vit=VIT)
    backbone, projector = load_model(tmp_path)
    assert projector is None
    assert torch.equal(backbone.norm.weight, vit.norm.weight)


def test_equal_models_are_equal_files_and_the_digest_names_the_weights(tmp_path, stored, student):
    save_model(tmp_path / "again", student, image_size=16, vit=VIT)
    for name in ("model.safetensors", "model.json"):
        assert (stored / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert weights_digest(stored) == file_digest(stored / "model.safetensors")


def test_timm_loads_the_backbone_s_tensors_strictly(stored, student):
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0}
    timm_vit = VisionTransformer(img_size=16, num_classes=0, **sizes).eval()
    tensors = load_file(stored / "model.safetensors")
    timm_vit.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("projector.")}, strict=True)
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(timm_vit(images), student.backbone.eval()(images))


def test_a_file_that_was_cut_short_or_changed_is_refused(stored):
    path = stored / "model.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:-7], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"is not the file that model\.json describes"):
            load_model(stored)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        load_model(stored)


def test_a_pickle_in_place_of_the_weights_is_refused_unread(stored):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (stored / "exploded",)

    torch.save({"norm.weight": Bomb()}, stored / "model.safetensors")
    change(stored / "model.json", weights_sha256=file_digest(stored / "model.safetensors"))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_model(stored)
    assert not (stored / "exploded").exists()


def test_weights_of_another_model_under_a_matching_digest_are_refused_by_tensor(stored):
    tensors = load_file(stored / "model.safetensors")
    tensors["blocks.0.norm3.weight"] = tensors.pop("blocks.0.norm1.weight")
    save_file(tensors, stored / "model.safetensors")
    change(stored / "model.json", weights_sha256=file_digest(stored / "model.safetensors"))
    with pytest.raises(ValueError, match=r"does not fit its model.json: .*blocks.0.norm1.weight") as refusal:
        load_model(stored)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "model.json: not valid JSON"),
        ("[" * 100_000, "model.json: not valid JSON"),
        ("[]", "model.json: the whole: input should be an object"),
        (" " * 2**21, "model.json has 2,097,152 bytes; allowed: at most"),
        ('{"format": "attndistill-model/9"}', "model format 'attndistill-model/9'; this version reads"),
        ('{"format": "attndistill-model/1"}', "model.json: image_size: field required"),
    ],
)
def test_a_description_that_is_none_is_refused(stored, text, message):
    (stored / "model.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_model(stored)


def test_a_description_of_an_impossible_model_is_refused(stored):
    change(stored / "model.json", vit=VIT | {"num_heads": 5})
    with pytest.raises(ValueError, match=r"model\.json and the tensors beside it: no model can be built as described"):
        load_model(stored)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vit": VIT | {"colour": "red"}}, "model.json: vit.colour: "),
        ({"vit": VIT | {"depth": "2"}}, "model.json: vit.depth: input should be a valid integer (given: 2)"),
        ({"vit": VIT | {"depth": 0}}, "model.json: vit.depth: input should be greater than 0 (given: 0)"),
        ({"vit": VIT | {"depth": 10**9}}, "vit.depth is 1000000000, but there are tensors of 2"),
        ({"vit": VIT | {"embed_dim": 10**9}}, "no model can be built as described"),
        ({"vit": VIT | {"embed_dim": 20480}}, "of another shape"),
        ({"vit": VIT | {"mlp_ratio": 1e300}}, "no model can be built as described"),
        ({"vit": VIT | {"position": "rotary"}}, "model.json: vit.position: input should be 'learnable' or 'sincos'"),
        ({"vit": {"timm_name": "hf-hub:x/y", "image_size": 16}}, "a plain timm name is wanted"),
        ({"vit": {"timm_name": "vit_7b_patch16_dinov3", "image_size": 16}}, "does not fit its model.json"),
        ({"vit": None}, "model.json: vit: "),
        ({"image_size": 10**9}, "image size 1000000000 px; allowed: multiples of its patch, 4 to 2048 px"),
        ({"image_size": 32}, "pos_embed is [1, 17, 16], wanted [1, 65, 16]"),
        (
            {"projector": {"teacher_dim": 24, "depth": 10**9}},
            "projector.depth is 1000000000, but there are tensors of 3",
        ),
        (
            {"projector": {"teacher_dim": 24, "depth": -1}},
            "model.json: projector.depth: input should be greater than 0",
        ),
        ({"projector": None}, "projector.depth is 0, but there are tensors of 3"),
        ({"weights_sha256": 5}, "model.json: weights_sha256: input should be a valid string"),
        ({"\x1b[2J": 1}, "model.json: \\x1b[2J: "),
    ],
)
def test_every_field_of_a_description_is_held_against_its_type_and_the_tensors(values, said, stored):
    change(stored / "model.json", **values)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        load_model(stored)
    assert str(caught.value).isprintable()
    assert str(stored) in str(caught.value)


def test_weights_that_are_not_finite_are_neither_stored_nor_read(stored, student, tmp_path):
    with torch.no_grad():
        student.projector.layers[1].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"not stored: projector\.layers\.1\.weight holds NaN or infinity"):
        save_model(tmp_path / "diverged", student, image_size=16, vit=VIT)
    assert not (tmp_path / "diverged").exists()
    tensors = load_file(stored / "model.safetensors")
    tensors["norm.bias"][0] = torch.nan
    save_file(tensors, stored / "model.safetensors")
    change(stored / "model.json", weights_sha256=file_digest(stored / "model.safetensors"))
    with pytest.raises(ValueError, match=r"norm\.bias holds NaN or infinity"):
        load_model(stored)


def test_a_model_that_could_not_be_read_again_is_not_stored(student, tmp_path):
    with pytest.raises(ValueError, match=r"not stored: vit\.depth is 3, but there are tensors of 2"):
        save_model(tmp_path / "other", student, image_size=16, vit=VIT | {"depth": 3})
    assert not (tmp_path / "other").exists()


def test_a_good_model_is_the_same_bytes_as_ever(stored):
    text = (stored / "model.json").read_text()
    digest = file_digest(stored / "model.safetensors")
    values = {
        "format": "attndistill-model/1",
        "image_size": 16,
        "projector": {"depth": 3, "teacher_dim": 24},
        "vit": VIT,
    }
    assert text == json.dumps(values | {"weights_sha256": digest}, indent=2, sort_keys=True) + "\n"

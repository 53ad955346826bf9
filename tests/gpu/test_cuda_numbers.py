"""What is computed on a GPU against the same in float64 on a CPU, which other tests hold against plain references."""

import copy
import itertools
import typing

import numpy as np
import pytest
import torch

from attndistill.data.loading import Batch
from attndistill.data.store import ArrayImages
from attndistill.data.views import ViewRecipe
from attndistill.evaluations.embedding import embed_split
from attndistill.losses import AGGREGATIONS, EMBEDDING_LOSSES, GUIDANCE, SIGNALS
from attndistill.losses.embedding import Setting
from attndistill.models.projector import Projector, Student
from attndistill.models.readout import read_fields
from attndistill.models.vit import build_vit
from attndistill.targets import CachedTargets, LiveTeacher, write_targets
from attndistill.tasks.distillation import Distillation, Objective

pytestmark = pytest.mark.gpu

SIDE, FIELDS = 32, ("layer_attention", "value_norms", "patch_tokens")
# rounding of float32 against float64: of a loss, and of a gradient in the 2-norm
OF_LOSS, OF_GRADIENT = 1e-4, 1e-3
RECIPE = ViewRecipe(0, SIDE, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def variants(registry) -> list[tuple[str, dict]]:
    """Every variant, once for each choice of those hyper-parameters that are one of a few."""
    found = []
    for name, options in registry.declared().items():
        choices = [
            [(option.name, value) for value in typing.get_args(option.annotation)]
            for option in options
            if typing.get_origin(option.annotation) is typing.Literal
        ]
        found += [(name, dict(chosen)) for chosen in itertools.product(*choices)]
    return found


def lively(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """float64, with attention that is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def vit(seed: int, width: int, depth: int, patch: int) -> torch.nn.Module:
    sizes = {"embed_dim": width, "depth": depth, "num_heads": 4, "patch_size": patch, "mlp_ratio": 2.0}
    return lively(build_vit(SIDE, seed, **sizes, position="learnable"), seed)


def batch() -> Batch:
    images = torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return Batch(images, torch.zeros(6, dtype=torch.int64), np.arange(6), 0)


def losses_and_gradients(task: Distillation, given: Batch) -> dict[str, torch.Tensor]:
    losses = task(given)
    losses["loss"].backward()
    task.after_update()
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return {name: value.detach().double().cpu() for name, value in {**losses, **gradients}.items()}


def compare(signal, aggregation, guidance, embedding, device: torch.device) -> None:
    teacher, backbone = vit(1, 48, 4, 4), vit(2, 32, 2, 8)
    student = Student(backbone, lively(Projector(32, 48, 2, seed=3), 3))
    grids = teacher.patch_embed.grid_size, backbone.patch_embed.grid_size
    objective = Objective(
        1.0,
        0.5,
        SIGNALS.bind(*signal),
        AGGREGATIONS.bind(*aggregation),
        GUIDANCE.bind(*guidance),
        *grids,
        fields=FIELDS,
    )
    further = None if embedding is None else EMBEDDING_LOSSES.bind(*embedding)(Setting(48, *grids, seed=0))
    exact = Distillation(student, LiveTeacher(copy.deepcopy(teacher), torch.device("cpu"), FIELDS), objective, further)
    found = copy.deepcopy(exact).float().to(device)
    found.teach = LiveTeacher(copy.deepcopy(teacher).float(), device, FIELDS)
    exact.double()
    given = batch()
    wanted = losses_and_gradients(exact, given)
    single = Batch(given.images.float(), given.labels, given.indices, 0)
    got = losses_and_gradients(found, single)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        error = float((got[name] - value).norm() / value.norm().clamp_min(1e-6))
        assert error < (OF_GRADIENT if value.ndim else OF_LOSS), f"{name}: {error:.1e}"


@pytest.mark.parametrize("guidance", variants(GUIDANCE), ids=str)
@pytest.mark.parametrize("aggregation", variants(AGGREGATIONS), ids=str)
@pytest.mark.parametrize("signal", variants(SIGNALS), ids=str)
def test_losses_and_gradients_on_a_gpu_are_those_of_float64(signal, aggregation, guidance, device):
    compare(signal, aggregation, guidance, None, device)


@pytest.mark.parametrize("embedding", variants(EMBEDDING_LOSSES), ids=str)
def test_embedding_losses_on_a_gpu_are_those_of_float64(embedding, device):
    name, options = embedding
    small = {"queue_size": 32} if name == "compress" else {}
    compare(("attention", {}), ("geometric_mean", {}), ("kl", {}), (name, options | small), device)


def timms(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """timm's own forward pass: normed tokens, and the class token's attention in the last block."""
    seen = []
    attn = model.blocks[-1].attn
    attn.fused_attn = False
    hook = attn.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = model.forward_features(images)
    hook.remove()
    return tokens, seen[0][:, :, 0]


def test_the_absorbed_last_block_is_timms_forward_pass_on_a_gpu(device):
    model, images = vit(1, 48, 4, 4).float().to(device), batch().images.float().to(device)
    with torch.no_grad():
        tokens, attention = timms(model, images)
        features = read_fields(model, images, FIELDS)
    torch.testing.assert_close(features.cls_token, tokens[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.patch_tokens, tokens[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.log_attention.exp(), attention, rtol=1e-3, atol=1e-5)


def test_the_readout_in_bf16_is_close_to_that_in_fp32(device):
    model, images = vit(1, 48, 4, 4).float().to(device), batch().images.float().to(device)
    with torch.no_grad():
        plain = read_fields(model, images)
        with torch.autocast(device.type, torch.bfloat16):
            mixed = read_fields(model, images)
    assert mixed.log_attention.dtype == torch.float32
    assert (mixed.cls_token.float() - plain.cls_token).norm() < 0.05 * plain.cls_token.norm()
    assert (mixed.log_attention.exp() - plain.log_attention.exp()).abs().max() < 0.05


def made_up(count: int = 24) -> ArrayImages:
    images = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    return ArrayImages(images, np.zeros(count, np.int64), [str(number) for number in range(count)])


def test_the_cache_written_on_a_gpu_is_that_written_on_a_cpu(tmp_path, device):
    stored = {}
    for place in (torch.device("cpu"), device):
        teacher = LiveTeacher(vit(1, 48, 4, 4).float(), place, FIELDS)
        folder = tmp_path / f"{place.type}-{len(stored)}"
        settings = {"identity": {}, "views": 2, "verify": 8, "batch_size": 7, "processes": 1}
        write_targets(teacher, made_up(), RECIPE, folder, unfinished=tmp_path / "unfinished", **settings)
        stored[len(stored)] = {path.stem: np.load(path).astype(np.float32) for path in sorted(folder.glob("*.npy"))}
        answer = CachedTargets(folder, device, {}, FIELDS)(batch())
        assert answer.cls_token.device.type == device.type
    assert stored[0].keys() == stored[1].keys() == {"cls_token", "log_attention", *FIELDS}
    for name, values in stored[0].items():
        np.testing.assert_allclose(stored[1][name], values, rtol=4e-3, atol=4e-3, err_msg=name)


def test_features_for_probes_on_a_gpu_are_those_of_a_cpu(device):
    model, projector = vit(1, 48, 4, 4).float(), Projector(48, 32, 2, seed=0)
    settings = {"crop_share": 0.875, "batch_size": 7, "projector": projector, "layer": 1}
    rows = [
        embed_split(copy.deepcopy(model), made_up(), RECIPE, device=place, **settings).features
        for place in (torch.device("cpu"), device)
    ]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-3, atol=1e-4)


def test_products_of_an_fp32_run_are_not_rounded_to_tf32(device):
    """cuDNN rounds convolutions unless told not to: the patches would have three digits."""
    generator = torch.Generator().manual_seed(0)
    images, kernel = (torch.randn(8, 3, 64, 64, generator=generator), torch.randn(64, 3, 16, 16, generator=generator))
    exact = torch.nn.functional.conv2d(images.double(), kernel.double(), stride=16)
    found = torch.nn.functional.conv2d(images.to(device), kernel.to(device), stride=16).double().cpu()
    assert (found - exact).norm() < 1e-5 * exact.norm()
    rows = images.flatten(1)
    found = (rows.to(device) @ rows.to(device).T).double().cpu()
    exact = rows.double() @ rows.double().T
    assert (found - exact).norm() < 1e-5 * exact.norm()

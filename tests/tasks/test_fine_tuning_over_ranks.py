"""Two ranks fine-tune as one process does: same views, mixes and dropped paths, weights equal up to rounding."""

import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import torch

from attndistill.data.augmentation import Augmentation
from attndistill.data.store import ArrayImages
from attndistill.data.views import ViewRecipe
from attndistill.models.vit import build_vit
from attndistill.runs import Execution, train
from attndistill.tasks.finetuning import FineTuning, Regularisation
from attndistill.training.checkpoint import Checkpoint
from attndistill.training.optimizers import RateCurve
from attndistill.training.recipe import Recipe

VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "learnable"}
RECIPE = {
    "epochs": 3, "batch_size": 16, "base_learning_rate": 0.01, "warmup_epochs": 1, "precision": "fp32",
    "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.05},
}  # fmt: skip
VIEWS = ViewRecipe(0, 16, (0.5, 1.0), (0.75, 1.33), 0.5, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def tuned(directory: Path, **execution: object) -> FineTuning:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 20, 20, 3), dtype=np.uint8)
    images = ArrayImages(pixels, np.arange(48, dtype=np.int64) % 3, [str(place) for place in range(48)])
    task = FineTuning(build_vit(16, 0, **VIT), 3, 7, Regularisation(0.2, 0.8, 1.0, 0.1, 4), layer_decay=0.75)
    train(
        task,
        Recipe.model_validate(RECIPE),
        images,
        VIEWS,
        Checkpoint(directory, "this run"),
        Execution(torch.device("cpu"), at_step=lambda step: None, **execution),
        seed=0,
        curve=RateCurve(start=1e-6, lowest=1e-5, per_epoch=True, whole=True),
        augmentation=Augmentation(3, "rand-m9-mstd0.5-inc1", 0.25),
        repeats=3,
    )
    return task


def tuned_as_rank(rank: int, port: int, directory: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    tuned(directory, is_main=rank == 0)


def test_two_ranks_and_micro_batches_end_with_the_weights_of_one_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=tuned_as_rank, args=(rank, port, tmp_path / "ranks")) for rank in range(2)]
    for process in ranks:
        process.start()
    whole, cut = tuned(tmp_path / "whole"), tuned(tmp_path / "cut", micro_batch_size=4)
    for process in ranks:
        process.join(200)
        assert process.exitcode == 0
    shared = Checkpoint(tmp_path / "ranks", "this run").load()
    assert shared["step"] == 9
    first = FineTuning(build_vit(16, 0, **VIT), 3, 7, Regularisation(0.2, 0.8, 1.0, 0.1, 4))
    for name, value in whole.state_dict().items():
        moved = (value - first.state_dict()[name]).norm()
        for other in (shared["task"][name], cut.state_dict()[name]):
            assert (value - other).norm() <= 1e-3 * moved, name

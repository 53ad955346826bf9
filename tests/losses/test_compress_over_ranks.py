"""The queue of CompRess over processes: every rank holds what one process would."""

import multiprocessing
from pathlib import Path

import torch
from torch import distributed

from attndistill.core.features import Features
from attndistill.losses.embedding import CompRess, Setting

SETTING = Setting(4, (1, 1), (1, 1), seed=0)


def updates() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 4, generator=generator) for _ in range(3)]


def fill(loss: CompRess, rank: int, ranks: int) -> torch.Tensor:
    for rows in updates():
        mine = rows.chunk(ranks)[rank]
        loss(Features(mine), Features(mine))
        loss.after_update()
    return loss.queue


def work(rank: int, store: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store / 'meet'}", rank=rank, world_size=2)
    torch.save(fill(CompRess(SETTING, queue_size=10), rank, 2), store / f"{rank}.pt")
    distributed.destroy_process_group()


def test_every_rank_holds_the_images_of_all_in_the_order_of_the_batch(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(rank, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    alone = fill(CompRess(SETTING, queue_size=10), 0, 1)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone, rtol=1e-6, atol=1e-7)

"""A real SLURM of one node: jobs are cancelled, requeued and out of time in the middle of a training."""

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
import slurm

pytestmark = pytest.mark.drivers

SLURM = {
    "executor": "slurm", "partition": "toy", "time": "00:30:00", "jobs": 2, "workers": 1, "cores": 1, "look": 1,
    "heartbeat": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    lacking = slurm.lacks()
    if lacking is not None:
        (pytest.fail if slurm.expected() else pytest.skip)(lacking)
    with slurm.cluster() as environment:
        yield environment


def until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def training(project) -> int:
    """Seeds that have a checkpoint and are not done."""
    return len(list((project.root / ".work").glob("[dp]*-*/*/checkpoint.pt")))


def jobs(cluster: dict[str, str]) -> list[str]:
    return slurm.ask(cluster, "squeue", "-h", "-t", "R", "-o", "%i").split()


def test_cancelled_requeued_and_timed_out_jobs_cost_no_byte_and_leave_nothing_behind(toy, plain, cluster):
    project = toy()
    process = project.start("pipeline", "--on", str(project.on(**SLURM)), **cluster)
    until(lambda: training(project) and len(jobs(cluster)) == 2, process)
    first, second = jobs(cluster)
    ends = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 2))
    slurm.ask(cluster, "scontrol", "update", f"JobId={first}", f"EndTime={ends}")  # SLURM looks every 30 s
    slurm.ask(cluster, "scontrol", "requeue", second)
    while process.poll() is None and second not in jobs(cluster):  # a quick machine may be done before it is back
        time.sleep(0.1)
    if running := jobs(cluster):
        slurm.ask(cluster, "scancel", running[-1])
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    assert project.made() == plain.made
    assert project.left_behind() == []
    assert slurm.ask(cluster, "squeue", "-h") == ""
    ended = slurm.ask(cluster, "scontrol", "-o", "show", "job")
    assert "Restarts=1" in ended
    assert "JobState=CANCELLED" in ended


def test_a_partition_that_does_not_exist_is_refused_before_anything_is_submitted(toy, cluster):
    project = toy()
    before = slurm.ask(cluster, "scontrol", "-o", "show", "job")
    process = project.start("pipeline", "--on", str(project.on(**{**SLURM, "partition": "gpu"})), **cluster)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert printed.splitlines()[-1].endswith("on.yaml: partition: gpu does not exist; allowed: toy")
    assert len(printed.splitlines()) == 1
    assert slurm.ask(cluster, "scontrol", "-o", "show", "job") == before

"""Two workers on this machine, really killed: the same bytes as one process."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from engine_project import EngineProject, write

from attndistill.data.answers import Manifest, open_answers
from attndistill.engine.driver import do_item, do_seed
from attndistill.engine.seeds import copied, over_ranks
from attndistill.pipeline import run_stage
from attndistill.stages import STAGES, Item
from attndistill.training import loop

pytestmark = pytest.mark.drivers


def children(pid: int) -> list[int]:
    """Of a process and of its children, and so on."""
    try:
        own = [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [*own, *(inner for child in own for inner in children(child))]


def workers(process: "subprocess.Popen[str]") -> list[int]:
    """Processes of the engine that hold torch or are about to."""
    found = []
    for pid in children(process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if "spawn_main" in words or "process_worker_pool" in words:
            found.append(pid)
    return found


def run_and_kill(project, chance: random.Random, most: int, pace: float) -> int:
    """Run a pipeline to its end; workers, their manager and drivers are killed meanwhile. Gives the number of kills.

    `pace`: of this machine, so that a slow one gets as far between two kills as a fast one; at most half a second, as
    one that was busy a moment ago would be over too soon. The first comes with the first task.
    """
    done, tasks = 0, project.root / ".work/engine/pipeline/tasks"
    while True:
        process = project.start("pipeline", "--on", str(project.on()))
        while process.poll() is None:
            time.sleep(min(pace, 0.5) * chance.uniform(0.1, 3.0) if done else 0.05)
            if done == most or process.poll() is not None:
                process.wait(600)
                break
            victims = [process.pid] if chance.random() < 0.1 else workers(process)
            if not (victims and any(tasks.glob("*.json"))):
                continue
            how = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2])
            try:
                os.kill(chance.choice(victims), signal.SIGKILL if victims == [process.pid] else how)
            except ProcessLookupError:
                continue
            done += 1
        printed = process.stdout.read()
        process.stdout.close()
        if process.returncode != -signal.SIGKILL:  # a driver that was killed is started again
            assert process.returncode == 0, printed
            return done


def under_dvc(project, cache: Path) -> None:
    """Make it a DVC project whose cache is shared by a group and linked to, as on a cluster."""
    project.run("drivers")
    for words in (
        ["git", "init", "-q"],
        ["dvc", "init", "-q"],
        ["dvc", "config", "cache.dir", str(cache)],
        ["dvc", "config", "cache.shared", "group"],
        ["dvc", "config", "cache.type", "symlink,hardlink"],
    ):
        command(project, *words)


def command(project, *words: str) -> str:
    done = subprocess.run(
        words, cwd=project.root, env=project.environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_same(project, plain) -> None:
    assert project.made() == plain.made
    assert project.left_behind() == []
    assert project.processes() == []


@pytest.fixture(scope="module")
def killed(tmp_path_factory, plain):
    """A project whose workers, manager and drivers were killed three times, and its number of kills."""
    root = tmp_path_factory.mktemp("killed")
    write(root, {})
    project = EngineProject(root)
    return project, run_and_kill(project, random.Random(0), 3, plain.seconds / 10)


def test_workers_killed_at_random_moments_cost_no_byte(killed, plain):
    project, kills = killed
    assert kills >= 1  # of a quick machine, one pipeline may be over before the third
    check_same(project, plain)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_cost_no_byte(toy, plain):
    chance, kills = random.Random(1), 0
    while kills < 20:
        project = toy()
        kills += run_and_kill(project, chance, min(10, 20 - kills), plain.seconds / 10)
        check_same(project, plain)


def test_dvc_stores_in_a_groups_shared_cache_what_workers_made_and_trains_nothing(killed, plain, tmp_path):
    project, cache = killed[0], tmp_path / "cache"
    under_dvc(project, cache)
    stored = command(project, "dvc", "repro")
    assert stored.count("finished before by an engine's worker; nothing is computed") == 12  # every stage
    assert project.made() == plain.made
    assert not (project.root / ".work/finished").exists()
    assert command(project, "dvc", "status") == "Data and pipelines are up to date.\n"
    assert "everything is up to date" in project.run("pipeline", "--on", str(project.on()))
    targets = project.root / "outputs/targets"
    assert all(path.is_symlink() and path.resolve().is_relative_to(cache) for path in targets.iterdir())
    assert all(isinstance(stored, np.memmap) for stored in open_answers(targets, Manifest.read(targets)).values())
    assert all(path.stat().st_mode & 0o2070 == 0o2070 for path in cache.rglob("*") if path.is_dir())  # the group's
    (project.root / "rows.yaml").write_text(
        "name: digits\nrows:\n  attndistill: {label: AttnDistill, set: {distill.lambda: 0.3}}\n"
    )
    printed = project.run("pipeline", "--on", str(project.on()))
    assert "6 of 6 tasks finished, 8 were up to date" in printed.splitlines()[-1]  # the row, its seeds; not the teacher


def test_without_on_neither_parsl_nor_the_engine_is_imported(plain):
    assert {"torch", "attndistill.pipeline"} <= plain.imported
    assert [name for name in plain.imported if name.startswith(("parsl", "attndistill.engine"))] == []


def test_a_task_that_cannot_end_well_is_not_tried_again_and_the_command_says_why(toy):
    project = toy(seeds=[0], pretrain={"recipe": {"base_learning_rate": 1e30}})
    process = project.start("pipeline", "--on", str(project.on()))
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    last = printed.splitlines()[-1]
    assert last.startswith("attndistill: pretrain@teacher: ")
    assert "image indices [" in last
    assert last.endswith("(2 of 12 tasks failed, 9 waited for them)")
    status = project.start("status")
    told, _ = status.communicate(timeout=300)
    assert status.returncode == 1
    assert "1 of 12 tasks finished, 9 waiting, 2 failed" in told
    assert "attempt" not in told
    assert project.processes() == []


@pytest.mark.parametrize(
    ("number", "of", "code", "said"),
    [
        (signal.SIGINT, "everything", 130, "attndistill: interrupted"),
        (signal.SIGKILL, "interchange", 1, "attndistill: the engine's interchange was killed: start this again"),
        (signal.SIGKILL, "driver", -signal.SIGKILL, ""),
    ],
)
def test_a_driver_that_is_interrupted_or_killed_or_loses_its_interchange_leaves_no_process(toy, number, of, code, said):
    project = toy(seeds=[0])
    process = project.start("pipeline", "--on", str(project.on()))
    begun = project.root / ".work/engine/pipeline/tasks/prepare.json"
    while not begun.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    if of == "everything":  # as Ctrl-C in a terminal does
        os.killpg(process.pid, number)
    else:
        within = [pid for pid in children(process.pid) if "HTEX" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(within[0] if of == "interchange" else process.pid, number)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == code, printed
    assert said in printed
    time.sleep(2)  # a local worker looks for its driver once a second
    assert project.processes() == []


def test_a_copy_on_the_machines_own_disk_is_made_once_and_an_older_one_goes(tmp_path):
    shared, scratch = tmp_path / "shared", tmp_path / "scratch"
    shared.mkdir()
    (shared / "array.npy").write_bytes(b"first")
    first = copied(shared, scratch)
    made = (first / "array.npy").stat().st_mtime_ns
    assert (first / "array.npy").read_bytes() == b"first"
    assert copied(shared, scratch) == first
    assert (first / "array.npy").stat().st_mtime_ns == made
    (shared / "array.npy").write_bytes(b"second")
    second = copied(shared, scratch)
    assert (second / "array.npy").read_bytes() == b"second"
    assert not first.exists()


def test_a_seed_trained_alone_by_two_ranks_from_a_copy_of_the_data_is_stored_by_the_stage(toy, tmp_path, monkeypatch):
    project = toy(seeds=[0, 1])
    experiment = project.experiment()
    for stage, item in (("prepare", ""), ("pretrain", "teacher"), ("targets", "")):
        run_stage(experiment, STAGES[stage], Item(item), {})
    given = {"folder": str(project.root), "stage": "distill", "item": ["attndistill", ""], "overrides": {}}
    over_ranks(2, {**given, "seed": 0, "scratch": str(tmp_path)})
    assert len(list((tmp_path / "attndistill").glob("*-*"))) == 2  # data and targets
    assert do_seed(**given, before={}, seed=1, scratch=str(tmp_path), ranks=1) == "done"
    checkpoints = list((project.root / ".work").glob("distill-attndistill/*/checkpoint.pt"))
    assert len(checkpoints) == 2
    monkeypatch.setattr(loop, "update", None)  # what trains
    assert do_item(**given, before={}) == "done"
    assert list((project.root / ".work").glob("distill-attndistill/*/checkpoint.pt")) == []
    assert (project.root / "outputs/distilled/attndistill/seed-1/model.safetensors").exists()

"""Two workers on this machine, really killed: the same bytes as one process."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.drivers

KILLS = 20


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

    `pace`: of this machine, so that a slow one gets as far between two kills as a fast one.
    """
    done = 0
    while True:
        process = project.start("pipeline", "--on", str(project.on()))
        while process.poll() is None:
            time.sleep(pace * chance.uniform(0.1, 3.0))
            if done == most or process.poll() is not None:
                process.wait(600)
                break
            victims = [process.pid] if chance.random() < 0.1 else workers(process)
            if not victims:
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


def test_workers_killed_twenty_times_at_random_moments_leave_the_bytes_of_a_plain_pipeline(toy, plain):
    chance, kills = random.Random(0), 0
    while kills < KILLS:
        project = toy()
        kills += run_and_kill(project, chance, min(10, KILLS - kills), plain.seconds / 10)
        assert project.made() == plain.made
        assert project.left_behind() == []
        assert project.processes() == []

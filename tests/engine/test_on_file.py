"""The file that --on names: what it may say, and what is refused in one line before anything is submitted."""

import importlib.util
import socket
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from attndistill.cli import main
from attndistill.core.ownership import owned
from attndistill.engine import machines
from attndistill.engine.board import Board, Entry
from attndistill.engine.driver import _jobs, _needs, boards, plan_of
from attndistill.engine.on import Kubernetes, Local, Slurm, read_on
from attndistill.pipeline import every_stage

EXAMPLES = Path(__file__).parents[2] / "examples" / "on"
ANSWERS = {
    "sinfo": f"gpu\n{socket.gethostname()}\n",
    "sbatch": "",
    "qstat": "Queue: gpu\n    queue_type = Execution\n",
    "bqueues": "QUEUE_NAME PRIO\ngpu 30\n",
}


@pytest.fixture
def written(tmp_path):
    def write(**options: object) -> str:
        YAML().dump(options, tmp_path / "on.yaml")
        return str(tmp_path / "on.yaml")

    return write


@pytest.fixture
def answering(monkeypatch):
    """Batch systems that know the queue `gpu`, and send jobs to machines elsewhere."""
    monkeypatch.setattr(machines, "asked", lambda *words: ANSWERS[words[0]])
    monkeypatch.setattr(machines, "own_file_system", lambda folder: None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "kubernetes" else find(name))
    monkeypatch.setattr(machines, "check_cluster", lambda: None)
    monkeypatch.setattr(machines, "gpus_here", lambda: 8)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_example_is_read(path, answering):
    assert read_on(str(path), Path("/project/mine")).executor in path.stem


def test_examples_are_shipped_for_every_executor():
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} >= {"local", "slurm", "pbs", "lsf", "kubernetes"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "executor: missing; allowed: 'local', 'slurm', 'pbs', 'lsf', 'kubernetes'"),
        ({"executor": "sge"}, "executor: 'sge'; allowed: 'local', 'slurm', 'pbs', 'lsf', 'kubernetes'"),
        ({"executor": "local", "worker": 2}, "worker: unknown option (given 2); allowed: executor, gpus, "),
        ({"executor": "local", "workers": 0}, "workers: 0; input should be greater than 0"),
        ({"executor": "local", "workers": "two"}, "workers: 'two'; input should be a valid integer"),
        ({"executor": "local", "gpus": "0-"}, "gpus: '0-'; "),
        ({"executor": "local", "gpus": 1, "gpus_per_training": 2}, "gpus_per_training: 2; allowed: at most"),
        ({"executor": "slurm", "time": "01:00:00"}, "partition: missing"),
        ({"executor": "slurm", "partition": "gpu", "time": "1 hour"}, "time: '1 hour'; "),
        ({"executor": "slurm", "partition": "cpu", "time": "01:00:00"}, "partition: cpu does not exist; allowed: "),
        ({"executor": "pbs", "queue": "cpu", "time": "01:00:00"}, "queue: cpu does not exist; allowed: gpu"),
        ({"executor": "lsf", "queue": "cpu", "time": "01:00:00"}, "queue: cpu does not exist; allowed: gpu"),
        ({"executor": "kubernetes", "image": "x", "volumes": {"c": "/data"}}, "lies on none of the volumes, so pods"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line_that_says_what_is_allowed(options, said, written, answering, tmp_path):
    with pytest.raises(ValueError, match=r"on\.yaml: ") as refusal:
        read_on(written(**options), tmp_path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_project_on_a_disk_of_this_machine_alone_is_refused_where_jobs_go_elsewhere(written, answering, monkeypatch):
    monkeypatch.setattr(machines, "own_file_system", lambda folder: "tmpfs")
    file = written(executor="lsf", queue="gpu", time="01:00:00")
    with pytest.raises(ValueError, match="/project lies on tmpfs of this machine, which workers elsewhere do not see"):
        read_on(file, Path("/project"))


def test_a_batch_system_that_is_not_here_is_refused(written, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="executor: qstat is not on this machine's PATH"):
        read_on(written(executor="pbs", queue="gpu", time="01:00:00"), tmp_path)


def test_without_parsl_the_command_says_what_to_install(toy, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: find(name, *more) if name != "parsl" else None)
    project = toy()
    assert main(["pipeline", "--experiment", str(project.root), "--on", str(project.on())]) == 2
    said = "attndistill: --on needs Parsl, which is not installed: pip install 'attndistill[cluster]'\n"
    assert capsys.readouterr().err == said


def test_a_second_driver_on_an_experiment_is_refused(toy, capsys):
    project = toy()
    with owned(boards(project.root) / "pipeline", "driving this experiment"):
        assert main(["pipeline", "--experiment", str(project.root), "--on", str(project.on())]) == 2
    assert "is already driving this experiment since" in capsys.readouterr().err


def test_without_on_neither_parsl_nor_the_engine_is_imported(toy):
    program = "import sys; from attndistill.cli import main; main(['pipeline', '--dry-run']); print([m for m in sys.modules if m == 'parsl' or m.startswith('attndistill.engine')])"  # noqa: E501
    project = toy()
    done = subprocess.run(
        ["python", "-c", program], cwd=project.root, env=project.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        ({"workers": 3}, ["", "", ""]),
        ({"gpus": 2}, ["0", "1"]),
        ({"gpus": "4-7"}, ["4", "5", "6", "7"]),
        ({"gpus": [0, 2], "workers_per_gpu": 2}, ["0", "2", "0", "2"]),
        ({"gpus": 4, "gpus_per_training": 2}, ["0,1", "2,3"]),
    ],
)
def test_each_worker_has_its_share_of_the_gpus(options, devices):
    assert Local(executor="local", **options).devices == devices


def test_what_a_whole_file_gives_at_a_time_is_counted():
    assert Slurm(executor="slurm", partition="p", time="1:00:00", nodes=2, jobs=3, gpus=4).capacity == 24
    assert Kubernetes(executor="kubernetes", image="x", volumes={}, pods=5).capacity == 5


def test_the_graph_has_seeds_before_what_stores_them_and_every_maker_before_what_reads_it(toy):
    experiment = toy().experiment()
    pieces = every_stage(experiment, {})
    changed = dict.fromkeys(
        (f"{stage.name}@{item.label}" if item.label else stage.name for stage, item in pieces), True
    )
    jobs = {job.name: job for job in _jobs(experiment, {}, pieces, changed, Local(executor="local"))}
    assert set(jobs["distill@attndistill"].needs) == {
        "prepare", "pretrain@teacher", "targets", "distill@attndistill seed 0", "distill@attndistill seed 1"
    }  # fmt: skip
    assert set(jobs["distill@attndistill seed 1"].needs) == {"prepare", "pretrain@teacher", "targets"}
    assert "pretrain@teacher seed 0" not in jobs  # one seed is the stage itself
    assert set(jobs["attention@attndistill"].needs) == {
        "prepare", "pretrain@teacher", "distill@attndistill", "attention@teacher"
    }  # fmt: skip
    everything = {name for name in jobs if " seed " not in name} - {"report", "targets"}
    assert everything - set(jobs["report"].needs) == set()
    places = list(jobs)
    assert all(places.index(need) < places.index(name) for name, job in jobs.items() for need in job.needs)
    assert _needs(experiment, {}, pieces, *pieces[0]) == []


def test_status_says_what_is_finished_running_waiting_and_failed_and_why(toy, capsys):
    experiment = toy().experiment()
    pieces = every_stage(experiment, {})[:4]  # prepare, the teacher, the baseline, targets
    names = dict.fromkeys(["prepare", "pretrain@teacher", "pretrain@scratch", "targets"], True)
    jobs = _jobs(experiment, {}, pieces, names, Local(executor="local"))
    board = Board(boards(experiment.folder) / "pipeline")
    board.begin(plan_of("pipeline of digits", jobs, settled=2))
    with board.running("pretrain@teacher") as told:
        told("steps", 5, 20)
        told("steps", 15, 20)
        running = board.lines(every=True)
    assert running[0] == "pipeline of digits: 0 of 6 tasks finished, 1 running, 5 waiting, 2 were up to date"
    assert "waiting   targets: for prepare, pretrain@teacher" in running[-1]
    board.write("prepare", Entry(state="finished", how="done"))
    board.write("pretrain@teacher", Entry(state="failed", how="the disk is full", place="node7:12"))
    assert main(["status", "--experiment", str(experiment.folder)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "pipeline of digits: 1 of 6 tasks finished, 4 waiting, 1 failed, 2 were up to date"
    assert said[1] == "  failed    pretrain@teacher: the disk is full, node7:12"
    board.write("targets", Entry(state="running", beat=0.0))
    assert "  lost      targets" in "\n".join(board.lines(every=False))

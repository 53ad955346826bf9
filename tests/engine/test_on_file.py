"""The file that --on names: what it may say, and what is refused in one line before anything is submitted."""

import importlib.util
import socket
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from attndistill.cli import main
from attndistill.core.ownership import owned
from attndistill.engine import machines
from attndistill.engine.board import Board, Entry
from attndistill.engine.driver import Graph, boards, plan_of
from attndistill.engine.on import Kubernetes, Local, Slurm, read_on
from attndistill.engine.seeds import _on_this_machine
from attndistill.engine.work import Job, perform

EXAMPLES = Path(__file__).parents[2] / "examples" / "on"
ANSWERS = {
    "sinfo": f"gpu\n{socket.gethostname()}\n",
    "sbatch": "",
    "qstat": "Queue: gpu\n    queue_type = Execution\n",
    "bqueues": "QUEUE_NAME PRIO\ngpu 30\n",
}
LOCAL = {"executor": "local"}
SLURM = {"executor": "slurm", "partition": "gpu", "time": "01:00:00"}
PODS = {"executor": "kubernetes", "image": "x", "volumes": {"c": "/"}}


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


_GPUS = 'allowed: how many, or which ("0-7", [0, 2]), each once, below 1024'
_TIME = 'allowed: hours:minutes:seconds, such as "12:00:00"'
_WORD = "allowed: letters, digits and . @ + : / , - _"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "executor: missing; allowed: 'local', 'slurm', 'pbs', 'lsf', 'kubernetes'"),
        ({"executor": "sge"}, "executor: 'sge'; allowed: 'local', 'slurm', 'pbs', 'lsf', 'kubernetes'"),
        ({"executor": ["local"]}, "allowed: 'local', 'slurm', 'pbs', 'lsf', 'kubernetes'"),
        ({**LOCAL, "worker": 2}, "worker: unknown option (given 2); allowed: executor, gpus, "),
        ({**LOCAL, "partition": "gpu"}, "partition: unknown option (given 'gpu'); allowed: executor, gpus, "),
        ({**LOCAL, "workers": 0}, "workers: 0; input should be greater than or equal to 1"),
        ({**LOCAL, "workers": "two"}, "workers: 'two'; input should be a valid integer"),
        ({**LOCAL, "workers": True}, "workers: True; input should be a valid integer"),
        ({**LOCAL, "workers": 10**9}, "workers: 1000000000; input should be less than or equal to 10000"),
        ({**LOCAL, "workers": 9999}, "workers: 9999; allowed: at most "),
        ({**LOCAL, "gpus": "0-"}, f"gpus: '0-'; {_GPUS}"),
        ({**LOCAL, "gpus": "7-0"}, f"gpus: '7-0'; {_GPUS}"),
        ({**LOCAL, "gpus": 10**30}, f"gpus: {10**30}; {_GPUS}"),
        ({**LOCAL, "gpus": []}, f"gpus: []; {_GPUS}"),
        ({**LOCAL, "gpus": [0, 0]}, f"gpus: [0, 0]; {_GPUS}"),
        ({**LOCAL, "gpus": [8]}, "gpus: (8,); this machine shows 8 "),
        ({**LOCAL, "gpus": 1, "workers": 2}, "workers: of a machine without GPUs; allowed beside"),
        ({**LOCAL, "workers_per_gpu": 2}, "workers_per_gpu: 2; allowed: together with gpus"),
        ({**LOCAL, "gpus": 1, "gpus_per_training": 2}, "gpus_per_training: 2; allowed: at most"),
        ({**LOCAL, "scratch": "here"}, "scratch: 'here'; allowed: an absolute path, or one that "),
        ({"executor": "slurm", "time": "01:00:00"}, "partition: missing"),
        ({**SLURM, "time": "1 hour"}, f"time: '1 hour'; {_TIME}"),
        ({**SLURM, "time": "0:00:00"}, f"time: '0:00:00'; {_TIME}"),
        ({**SLURM, "partition": "cpu"}, "partition: cpu does not exist; allowed: "),
        ({**SLURM, "partition": "gpu,cpu"}, "partition: cpu does not exist; allowed: "),
        ({**SLURM, "partition": "gpu; id"}, f"partition: 'gpu; id'; {_WORD}"),
        ({**SLURM, "account": "$(id)"}, f"account: '$(id)'; {_WORD}"),
        ({**SLURM, "options": ["--exclusive\nid"]}, r"options.0: '--exclusive\nid'; allowed: one line"),
        ({**SLURM, "memory": "32G"}, "memory: '32G'; input should be a valid integer"),
        ({"executor": "pbs", "queue": "cpu", "time": "01:00:00"}, "queue: cpu does not exist; allowed: gpu"),
        ({"executor": "lsf", "queue": "cpu", "time": "01:00:00"}, "queue: cpu does not exist; allowed: gpu"),
        ({**PODS, "volumes": {"c": "/data"}}, "lies on none of the volumes, so pods"),
        ({**PODS, "volumes": {"c": "data"}}, "volumes.c: 'data'; allowed: an absolute path"),
        ({**PODS, "memory": "lots"}, "memory: 'lots'; allowed: such as "),
        ({**PODS, "namespace": "My_Own"}, "namespace: 'My_Own'; allowed: small letters, digits, . and -"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line_that_says_what_is_allowed(options, said, written, answering, tmp_path):
    with pytest.raises(ValueError, match=r"on\.yaml: ") as refusal:
        read_on(written(**options), tmp_path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content", ["text", "[local]", "executor: local\nexecutor: local", "executor: &a [*a]", "\x00"]
)
def test_a_file_that_is_no_mapping_of_options_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "on.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"^[^\n]*on\.yaml[^\n]*$"):
        read_on(str(tmp_path / "on.yaml"), tmp_path)


def test_a_folder_or_a_device_is_no_file_of_options(tmp_path):
    for path, kind in ((tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ValueError, match=f"is {kind}, not a regular file"):
            read_on(str(path), tmp_path)
    with pytest.raises(ValueError, match="no such file; allowed: a file that names an executor"):
        read_on(str(tmp_path / "none.yaml"), tmp_path)


def test_gpus_that_this_machine_lacks_are_refused(written, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert read_on(written(**LOCAL, gpus=2), tmp_path).devices == ["0", "1"]
    with pytest.raises(ValueError, match=r"gpus: \(0, 1, 2\); this machine shows 2"):
        read_on(written(**LOCAL, gpus=3), tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    with pytest.raises(ValueError, match="this machine shows 0"):
        read_on(written(**LOCAL, gpus="0"), tmp_path)


def test_pods_are_refused_where_no_cluster_is_configured(written, monkeypatch, tmp_path):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ValueError, match=r"kubernetes: no cluster is configured here; allowed: ~/\.kube/config"):
        read_on(written(**PODS), tmp_path)


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


def test_a_worker_that_does_not_see_the_projects_folder_says_so(tmp_path):
    for board in (tmp_path / "elsewhere", tmp_path):  # the latter is there, but is nobody's board
        with pytest.raises(ValueError, match=f"does not see {board}: workers need the project's shared folder"):
            perform(Job("a task", (), "os:getcwd", {}, board=board))


@pytest.mark.parametrize("scratch", ["$NO_SUCH_VARIABLE", "${NO_SUCH_VARIABLE}/copies", "$HERE"])
def test_a_scratch_folder_that_a_machine_does_not_have_is_said(scratch, monkeypatch):
    monkeypatch.setenv("HERE", "relative")
    with pytest.raises(ValueError, match=r"scratch: .* is .* on .*; allowed: a folder there"):
        _on_this_machine(scratch)


def test_a_second_driver_on_an_experiment_is_refused(toy, capsys):
    project = toy()
    with owned(boards(project.root) / "pipeline", "driving this experiment"):
        assert main(["pipeline", "--experiment", str(project.root), "--on", str(project.on())]) == 2
    assert "is already driving this experiment since" in capsys.readouterr().err


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
    graph = Graph(toy().experiment(), {})
    jobs = {job.name: job for job in graph.jobs(graph.changed(), Local(executor="local"))}
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
    assert graph.needs["prepare"] == []


def test_status_says_what_is_finished_running_waiting_and_failed_and_why(toy, capsys):
    experiment = toy().experiment()
    names = dict.fromkeys(["prepare", "pretrain@teacher", "pretrain@scratch", "targets"], True)
    jobs = Graph(experiment, {}).jobs(names, Local(executor="local"))
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

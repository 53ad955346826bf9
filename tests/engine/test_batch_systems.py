"""PBS, LSF and Kubernetes, by stand-ins that run Parsl's own scripts and pods on this machine: tasks come back."""

import json
import os
from pathlib import Path

import pytest
import stand_ins
from kubernetes.config import kube_config

from attndistill.engine.board import Board
from attndistill.engine.driver import plan_of
from attndistill.engine.on import Kubernetes, Lsf, Pbs, read_on
from attndistill.engine.pool import run_jobs
from attndistill.engine.work import Job

pytestmark = pytest.mark.drivers

EXAMPLES = Path(__file__).parents[2] / "examples" / "on"
GPUS = {"gpus": 2, "workers_per_gpu": 2, "setup": "export SET_UP=yes"}


def seen() -> str:
    """A task: what it sees of its worker."""
    return f"GPU {os.environ['CUDA_VISIBLE_DEVICES']}, set up: {os.environ['SET_UP']}"


def done_by(on, folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    """What tasks on such workers tell: one, and then three that wait for it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    names = ["first", "second", "third", "fourth"]
    jobs = [Job(name, () if name == "first" else ("first",), "test_batch_systems:seen", {}) for name in names]
    board = Board(folder / "board")
    board.begin(plan_of("a test", jobs))
    run_jobs(jobs, on, board, lambda: None, {})
    entries = [board.entry(name) for name in names]
    assert {entry.state for entry in entries if entry} == {"finished"}
    return [entry.how for entry in entries if entry]


def check_gpus(told: list[str]) -> None:
    assert len(told) == 4
    assert set(told) <= {"GPU 0, set up: yes", "GPU 1, set up: yes"}


def test_pbs_is_given_a_script_of_what_the_file_says_whose_workers_do_the_tasks(tmp_path, monkeypatch):
    on = Pbs(executor="pbs", queue="gpu", account="lab", time="01:30:00", jobs=1, cores=8, select="ngpus=2", look=1,
             options=["-l place=excl"], **GPUS)  # fmt: skip
    check_gpus(done_by(on, tmp_path, monkeypatch, **stand_ins.programs(tmp_path)))
    script = (tmp_path / "script").read_text()
    assert "#PBS -l walltime=01:30:00\n#PBS -l select=1:ncpus=8:ngpus=2\n" in script
    assert "#PBS -l place=excl\n" in script
    assert "-q gpu -A lab" in (tmp_path / "words").read_text()


@pytest.mark.parametrize(("nodes", "hosts"), [pytest.param(1, None, marks=pytest.mark.slow), (2, "node1 node2\n")])
def test_lsf_reads_a_script_of_what_the_file_says_whose_workers_do_the_tasks_on_each_node(
    tmp_path, monkeypatch, nodes, hosts
):
    on = Lsf(executor="lsf", queue="gpu", project="lab", time="01:30:00", nodes=nodes, cores=8, look=1,
             options=['-gpu "num=2"'], **GPUS)  # fmt: skip
    check_gpus(done_by(on, tmp_path, monkeypatch, **stand_ins.programs(tmp_path)))
    lines = (tmp_path / "script").read_text().splitlines()
    wanted = ["-W 90", "-P lab", "-q gpu", f"-n {8 * nodes}", '-R "span[ptile=8]"', '-gpu "num=2"']
    assert [word for word in wanted if f"#BSUB {word}" not in lines] == []
    assert (tmp_path / "words").read_text() == "\n"  # by redirection: from a file's name, LSF reads no options
    assert ((tmp_path / "nodes").read_text() if hosts else None) == hosts


def test_a_pod_of_kubernetes_has_what_the_file_says_and_does_the_tasks(tmp_path, monkeypatch):
    on = Kubernetes(executor="kubernetes", image="lab/image:1", volumes={"shared": "/project"}, cores=3, memory="5Gi",
                    namespace="lab", service_account="me", **GPUS)  # fmt: skip
    with stand_ins.cluster(tmp_path) as config:
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))  # KUBECONFIG, once imported
        check_gpus(done_by(on, tmp_path, monkeypatch))
    pod = json.loads((tmp_path / "pod.json").read_text())
    container = pod["spec"]["containers"][0]
    assert pod["path"] == "/api/v1/namespaces/lab/pods"
    assert pod["spec"]["serviceAccountName"] == "me"
    assert pod["spec"]["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}]
    assert container["image"] == "lab/image:1"
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/project"}]
    assert container["resources"]["limits"] == {"cpu": "3", "memory": "5Gi", "nvidia.com/gpu": "2"}  # four workers


def test_queues_are_asked_of_the_batch_systems_own_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", stand_ins.programs(tmp_path)["PATH"])
    for name in ("pbs", "lsf"):
        assert read_on(str(EXAMPLES / f"{name}.yaml"), Path("/srv/project")).capacity > 8
        (tmp_path / "on.yaml").write_text(f"executor: {name}\nqueue: long\ntime: 1:00:00\n")
        with pytest.raises(ValueError, match="queue: long does not exist; allowed: gpu"):
            read_on(str(tmp_path / "on.yaml"), Path("/srv/project"))

"""The file that `--on` names: where workers run. Typed; checked before anything is submitted.

executor: slurm
partition: gpu
time: "12:00:00"
jobs: 4
gpus: 8
"""

import importlib.util
import os
import shlex
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from attndistill.core.plain_yaml import read_plain_yaml
from attndistill.core.words import shown
from attndistill.engine import machines
from attndistill.engine.values import Amount, Count, Few, Folder, Gpus, Label, Line, Name, OwnFolder, Seconds, Time

_MOST_A_CORE = 4  # workers of this machine: more would only wait for one another


class Workers(BaseModel):
    """What every executor has.

    Attributes:
        workers: tasks at a time on a machine without GPUs.
        gpus: of a machine: how many, or which ("0-7", [0, 2]).
        workers_per_gpu: tasks that share one.
        gpus_per_training: a training's own, by torchrun; more than one makes a batch's sums another order.
        retries: how often a task may die without having come further.
        scratch: a folder on each machine's own disk, for a copy of data and targets; $VARIABLES are the worker's.
        setup: shell lines before a worker starts ("module load cuda").
        heartbeat: seconds of silence after which a machine is given up.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    workers: Count = 1
    gpus: Gpus = None
    workers_per_gpu: Few = 1
    gpus_per_training: Few = 1
    retries: Annotated[int, Field(ge=0, le=10_000)] = 3
    scratch: OwnFolder | None = None
    setup: str = ""
    heartbeat: Seconds = 60

    @property
    def devices(self) -> list[str]:
        """Of each worker of a machine, as CUDA_VISIBLE_DEVICES counts; "" where there are no GPUs."""
        if self.gpus is None:
            return [""] * self.workers
        each = self.gpus_per_training
        groups = [self.gpus[at : at + each] for at in range(0, len(self.gpus) - each + 1, each)]
        return [",".join(map(str, group)) for group in groups] * self.workers_per_gpu

    @property
    def cards(self) -> int | None:
        """GPUs that a batch system gives a node of ours; None where there are none."""
        return None if self.gpus is None else len(self.devices) * self.gpus_per_training // self.workers_per_gpu

    @property
    def capacity(self) -> int:
        """Tasks at a time, of all machines."""
        return len(self.devices)

    def check(self, folder: Path) -> None:
        """Raise ValueError for what no worker could start with. `folder` is the project's."""
        given = self.model_fields_set
        if self.gpus is None and (odd := sorted(given & {"workers_per_gpu", "gpus_per_training"})):
            raise ValueError(f"{odd[0]}: {getattr(self, odd[0])}; allowed: together with gpus")
        if self.gpus is not None and "workers" in given:
            raise ValueError("workers: of a machine without GPUs; allowed beside gpus: workers_per_gpu")
        if not self.devices:
            raise ValueError(f"gpus_per_training: {self.gpus_per_training}; allowed: at most as many as gpus")
        if self.gpus_per_training > 1 and self.workers_per_gpu > 1:
            raise ValueError("workers_per_gpu: a GPU is shared or one of several, not both")


class Local(Workers):
    """This machine."""

    executor: Literal["local"]

    def check(self, folder: Path) -> None:
        """As for every executor, and this machine has what is asked for."""
        super().check(folder)
        most = _MOST_A_CORE * (os.cpu_count() or 1)
        if self.workers > most:
            raise ValueError(f"workers: {self.workers}; allowed: at most {most}, {_MOST_A_CORE} a core of this machine")
        if self.gpus is not None and max(self.gpus) >= (here := machines.gpus_here()):
            raise ValueError(f"gpus: {shown(self.gpus)}; this machine shows {here} (nvidia-smi, CUDA_VISIBLE_DEVICES)")


class Batch(Workers):
    """What batch systems have.

    Attributes:
        time: of a job, HH:MM:SS; a task that it ends goes on in the next one.
        nodes: of a job.
        jobs: at most, at a time.
        options: lines for the batch system's script, without their beginning ("--constraint=a100").
        look: seconds between questions to the batch system.
    """

    time: Time
    nodes: Count = 1
    jobs: Count = 1
    options: list[Line] = []
    look: Count = 30

    @property
    def capacity(self) -> int:
        return super().capacity * self.nodes * self.jobs

    def check(self, folder: Path) -> None:
        """Raise ValueError for a queue that does not exist, or a project on a disk of this machine alone."""
        super().check(folder)
        self.check_queue()
        own = machines.own_file_system(folder)
        if own and not self.is_here():
            raise ValueError(
                f"{shown(folder)} lies on {own} of this machine, which workers elsewhere do not see; allowed: a "
                "project on shared storage"
            )

    def check_queue(self) -> None:
        """Raise ValueError for a queue that does not exist."""
        raise NotImplementedError

    def is_here(self) -> bool:
        """Whether this machine is the only one that jobs go to."""
        return False


class Slurm(Batch):
    """SLURM, by sbatch."""

    executor: Literal["slurm"]
    partition: Name
    account: Name | None = None
    qos: Name | None = None
    cores: Count | None = None
    memory: Count | None = None

    @property
    def words(self) -> list[str]:
        """What sbatch is told, besides nodes and time."""
        memory = None if self.memory is None else f"{self.memory}g"
        named = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "cpus-per-task": self.cores,
            "mem": memory,
            "gpus-per-node": self.cards,
        }
        return [*(f"--{name}={value}" for name, value in named.items() if value is not None), *self.options]

    def check_queue(self) -> None:
        """The partition exists, and SLURM would take such a job."""
        for name in self.partition.split(","):
            machines.check_known("partition", name, machines.asked("sinfo", "-h", "-o", "%R").split())
        words = [word for option in self.words for word in shlex.split(option)]
        machines.asked("sbatch", "--test-only", f"--nodes={self.nodes}", f"--time={self.time}", *words, "--wrap=true")

    def is_here(self) -> bool:
        nodes = set(machines.asked("sinfo", "-h", "-N", "-p", self.partition, "-o", "%n").split())
        return nodes <= {socket.gethostname(), socket.gethostname().partition(".")[0]}


class Pbs(Batch):
    """PBS Professional and OpenPBS, by qsub."""

    executor: Literal["pbs"]
    queue: Name
    account: Name | None = None
    cores: Count = 1
    select: Line | None = None

    def check_queue(self) -> None:
        """The queue exists."""
        answer = machines.asked("qstat", "-Q", "-f").splitlines()
        machines.check_known("queue", self.queue, [line.split()[1] for line in answer if line.startswith("Queue:")])


class Lsf(Batch):
    """LSF, by bsub."""

    executor: Literal["lsf"]
    queue: Name
    project: Name | None = None
    cores: Count | None = None

    def check_queue(self) -> None:
        """The queue exists."""
        answer = machines.asked("bqueues", "-w").splitlines()
        machines.check_known("queue", self.queue, [line.split()[0] for line in answer[1:] if line.strip()])


class Kubernetes(Workers):
    """Pods of an image that has this package; the project lies on a volume.

    Attributes:
        image: of the pods.
        namespace: of the pods.
        pods: at most, at a time.
        volumes: claim -> path in a pod.
        cores: of a pod.
        memory: of a pod, such as "32Gi".
        service_account: of the pods.
    """

    executor: Literal["kubernetes"]
    image: Name
    volumes: dict[Label, Folder]
    namespace: Label = "default"
    pods: Count = 1
    cores: Count = 1
    memory: Amount = "4Gi"
    service_account: Label | None = None

    @property
    def capacity(self) -> int:
        return super().capacity * self.pods

    def check(self, folder: Path) -> None:
        """As for every executor; the project lies on a volume that pods have at the same path; a cluster is known."""
        super().check(folder)
        if not any(folder.is_relative_to(path) for path in self.volumes.values()):
            places = ", ".join(self.volumes.values()) or "none"
            raise ValueError(f"{shown(folder)} lies on none of the volumes, so pods do not see it; volumes: {places}")
        if importlib.util.find_spec("kubernetes") is None:
            raise ValueError("kubernetes: Kubernetes' client is not installed: pip install 'attndistill[kubernetes]'")
        machines.check_cluster()


Executor = Local | Slurm | Pbs | Lsf | Kubernetes
_KINDS = {get_args(kind.model_fields["executor"].annotation)[0]: kind for kind in get_args(Executor)}


def read_on(file: str, folder: Path) -> Executor:
    """The checked file of `--on`, for a project's folder.

    Raises:
        ValueError: one line: the engine is not installed; what is wrong in the file, or with what it names.
    """
    if importlib.util.find_spec("parsl") is None:
        raise ValueError("--on needs Parsl, which is not installed: pip install 'attndistill[cluster]'")
    path = Path(file)
    if not path.exists():
        raise ValueError(f"--on {shown(file)}: no such file; allowed: a file that names an executor (docs/scaling.md)")
    try:
        checked = TypeAdapter(Annotated[Executor, Field(discriminator="executor")])
        on: Executor = checked.validate_python(read_plain_yaml(path))
        on.check(folder)
    except ValidationError as error:
        raise ValueError(f"{shown(path)}: {_explained(error.errors(include_url=False)[0])}") from None
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(shown(path)) else f"{shown(path)}: {text}") from None
    return on


def _explained(problem: Any) -> str:
    """A mistake in the file: where, what was given, what is allowed."""
    place = ".".join(str(part) for part in problem["loc"][1:] if part != "[key]") or "executor"
    given = shown(repr(problem["input"]))
    match problem["type"]:
        case "union_tag_invalid":
            return f"executor: {shown(repr(problem['ctx']['tag']))}; allowed: {problem['ctx']['expected_tags']}"
        case "union_tag_not_found" | "model_attributes_type":
            return f"executor: missing; allowed: {', '.join(map(repr, _KINDS))}"
        case "extra_forbidden":
            kind = _KINDS[problem["loc"][0]]
            return f"{shown(place)}: unknown option (given {given}); allowed: {', '.join(sorted(kind.model_fields))}"
        case "missing":
            return f"{place}: missing"
        case "value_error":
            return f"{shown(place)}: {given}; {problem['ctx']['error']}"
    return f"{shown(place)}: {given}; {problem['msg'][0].lower()}{problem['msg'][1:]}"

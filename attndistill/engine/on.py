"""The file that `--on` names: where workers run. Typed; checked before anything is submitted.

executor: slurm
partition: gpu
time: "12:00:00"
jobs: 4
gpus: 8
"""

import importlib.util
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from attndistill.core.plain_yaml import read_plain_yaml
from attndistill.core.words import shown

_NODES_OWN = {"tmpfs", "ramfs", "overlay", "devtmpfs", "squashfs"}  # file systems that no other machine sees


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

    workers: PositiveInt = 1
    gpus: PositiveInt | list[Annotated[int, Field(ge=0)]] | Annotated[str, Field(pattern=r"^\d+(-\d+)?$")] | None = None
    workers_per_gpu: PositiveInt = 1
    gpus_per_training: PositiveInt = 1
    retries: Annotated[int, Field(ge=0)] = 3
    scratch: str | None = None
    setup: str = ""
    heartbeat: Annotated[int, Field(ge=2)] = 60

    @property
    def devices(self) -> list[str]:
        """Of each worker of a machine, as CUDA_VISIBLE_DEVICES counts; "" where there are no GPUs."""
        if self.gpus is None:
            return [""] * self.workers
        if isinstance(self.gpus, str):
            first, _, last = self.gpus.partition("-")
            chosen = list(range(int(first), int(last or first) + 1))
        else:
            chosen = list(range(self.gpus)) if isinstance(self.gpus, int) else self.gpus
        each = self.gpus_per_training
        groups = [",".join(map(str, chosen[at : at + each])) for at in range(0, len(chosen) - each + 1, each)]
        return groups * self.workers_per_gpu

    @property
    def capacity(self) -> int:
        """Tasks at a time, of all machines."""
        return len(self.devices)

    def check(self, folder: Path) -> None:
        """Raise ValueError for what no worker could start with. `folder` is the project's."""
        if not self.devices:
            raise ValueError(f"gpus_per_training: {self.gpus_per_training}; allowed: at most as many as gpus")
        if self.gpus_per_training > 1 and self.workers_per_gpu > 1:
            raise ValueError("workers_per_gpu: a GPU is shared or one of several, not both")


class Local(Workers):
    """This machine."""

    executor: Literal["local"]


class Batch(Workers):
    """What batch systems have.

    Attributes:
        time: of a job, HH:MM:SS; a task that it ends goes on in the next one.
        nodes: of a job.
        jobs: at most, at a time.
        options: lines for the batch system's script, without their beginning ("--constraint=a100").
        look: seconds between questions to the batch system.
    """

    time: Annotated[str, Field(pattern=r"^\d+:[0-5]\d:[0-5]\d$")]
    nodes: PositiveInt = 1
    jobs: PositiveInt = 1
    options: list[str] = []
    look: PositiveInt = 30

    @property
    def capacity(self) -> int:
        return super().capacity * self.nodes * self.jobs

    def check(self, folder: Path) -> None:
        """Raise ValueError for a queue that does not exist, or a project on a disk of this machine alone."""
        super().check(folder)
        own = _own_file_system(folder)
        if own and not self.is_here():
            raise ValueError(
                f"{shown(folder)} lies on {own} of this machine, which workers elsewhere do not see; allowed: a "
                "project on shared storage"
            )

    def is_here(self) -> bool:
        """Whether this machine is the only one that jobs go to."""
        return False


class Slurm(Batch):
    """SLURM, by sbatch."""

    executor: Literal["slurm"]
    partition: str
    account: str | None = None
    qos: str | None = None
    cores: PositiveInt | None = None
    memory: PositiveInt | None = None

    def check(self, folder: Path) -> None:
        """As for every batch system, and the partition exists."""
        found = _asked("sinfo", "-h", "-o", "%R").split()
        if self.partition not in found:
            raise ValueError(f"partition: {shown(self.partition)} does not exist; allowed: {', '.join(sorted(found))}")
        super().check(folder)

    def is_here(self) -> bool:
        nodes = set(_asked("sinfo", "-h", "-N", "-p", self.partition, "-o", "%n").split())
        return nodes <= {socket.gethostname(), socket.gethostname().partition(".")[0]}


class Pbs(Batch):
    """PBS Professional and OpenPBS, by qsub."""

    executor: Literal["pbs"]
    queue: str
    account: str | None = None
    cores: PositiveInt = 1
    select: str = ""

    def check(self, folder: Path) -> None:
        """As for every batch system, and the queue exists."""
        found = [line.split()[1] for line in _asked("qstat", "-Q", "-f").splitlines() if line.startswith("Queue:")]
        _check_queue(self.queue, found)
        super().check(folder)


class Lsf(Batch):
    """LSF, by bsub."""

    executor: Literal["lsf"]
    queue: str
    project: str | None = None
    cores: PositiveInt | None = None

    def check(self, folder: Path) -> None:
        """As for every batch system, and the queue exists."""
        _check_queue(self.queue, [line.split()[0] for line in _asked("bqueues", "-w").splitlines()[1:] if line.strip()])
        super().check(folder)


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
    image: str
    volumes: dict[str, str]
    namespace: str = "default"
    pods: PositiveInt = 1
    cores: PositiveInt = 1
    memory: str = "4Gi"
    service_account: str | None = None

    @property
    def capacity(self) -> int:
        return super().capacity * self.pods

    def check(self, folder: Path) -> None:
        """As for every executor; the project lies on a volume that pods have at the same path."""
        super().check(folder)
        if not any(folder.is_relative_to(path) for path in self.volumes.values()):
            places = ", ".join(self.volumes.values()) or "none"
            raise ValueError(f"{shown(folder)} lies on none of the volumes, so pods do not see it; volumes: {places}")
        if importlib.util.find_spec("kubernetes") is None:
            raise ValueError("kubernetes: Python's client is not installed: pip install kubernetes")


_KINDS: dict[str, type[Workers]] = {
    "local": Local,
    "slurm": Slurm,
    "pbs": Pbs,
    "lsf": Lsf,
    "kubernetes": Kubernetes,
}
On = Annotated[Local | Slurm | Pbs | Lsf | Kubernetes, Field(discriminator="executor")]


def read_on(file: str, folder: Path) -> Local | Slurm | Pbs | Lsf | Kubernetes:
    """The checked file of `--on`, for a project's folder.

    Raises:
        ValueError: one line: the engine is not installed; what is wrong in the file, or with what it names.
    """
    if importlib.util.find_spec("parsl") is None:
        raise ValueError("--on needs Parsl, which is not installed: pip install 'attndistill[cluster]'")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"--on {shown(file)}: no such file; allowed: a file that names an executor (docs/scaling.md)")
    try:
        on: Local | Slurm | Pbs | Lsf | Kubernetes = TypeAdapter(On).validate_python(read_plain_yaml(path))
        on.check(folder)
    except ValidationError as error:
        raise ValueError(f"{shown(path)}: {_explained(error.errors(include_url=False)[0])}") from None
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(shown(path)) else f"{shown(path)}: {text}") from None
    return on


def _explained(problem: Any) -> str:
    """A mistake in the file: where, what was given, what is allowed."""
    place = ".".join(str(part) for part in problem["loc"][1:] or ("executor",))
    given = shown(repr(problem["input"]))
    match problem["type"]:
        case "union_tag_invalid":
            return f"executor: {shown(repr(problem['ctx']['tag']))}; allowed: {problem['ctx']['expected_tags']}"
        case "union_tag_not_found" | "model_attributes_type":
            return f"executor: missing; allowed: {', '.join(map(repr, _KINDS))}"
        case "extra_forbidden":
            kind = _KINDS[problem["loc"][0]]
            return f"{place}: unknown option (given {given}); allowed: {', '.join(sorted(kind.model_fields))}"
        case "missing":
            return f"{place}: missing"
    place = place.partition(".")[0] if place.startswith("gpus.") else place
    return f"{place}: {given}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _check_queue(queue: str, found: list[str]) -> None:
    if queue not in found:
        raise ValueError(f"queue: {shown(queue)} does not exist; allowed: {', '.join(sorted(found))}")


def _asked(*words: str) -> str:
    """What a batch system's program answers. Raises ValueError where it does not."""
    if shutil.which(words[0]) is None:
        raise ValueError(f"executor: {words[0]} is not on this machine's PATH: run this where jobs can be submitted")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"executor: {words[0]} did not answer within 30 s") from None
    if done.returncode:
        raise ValueError(f"executor: {words[0]} says: {shown(' '.join((done.stderr or done.stdout).split()), 300)}")
    return done.stdout


def _own_file_system(folder: Path) -> str | None:
    """The file system of a folder, where it is one that no other machine sees; None otherwise."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    around = [(Path(re.sub(r"\\040", " ", place)), kind) for _, place, kind, *_ in mounts]
    kind = max((len(place.parts), kind) for place, kind in around if folder.is_relative_to(place))[1]
    if kind in _NODES_OWN:
        return kind
    return next((place for place in ("/tmp", "/var/tmp", "/dev/shm") if folder.is_relative_to(place)), None)

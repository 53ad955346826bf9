"""A SLURM of a test's own: one node, this machine, as root on loopback, from Debian's packages."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sinfo", "sbatch")
_SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
JobRequeue=1
RequeueExit=1
ReturnToService=2
KillWait=2
InactiveLimit=0
MpiDefault=none
SwitchType=switch/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores}
PartitionName=toy Nodes={host} Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
"""


def lacks() -> str | None:
    """Why there is no SLURM to be had here; None where there is."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is missing (Debian: apt-get install slurmctld slurmd slurm-client munge)"
    return None if os.geteuid() == 0 else "a SLURM of its own needs root"


def expected() -> bool:
    """Whether it has to be there: under CI on Debian as root, where `.ci/run` has installed it."""
    return bool(os.environ.get("CI")) and os.geteuid() == 0 and Path("/etc/debian_version").exists()


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which `sinfo` and its like speak to a running SLURM; all of it is gone with the block."""
    home = Path(tempfile.mkdtemp(prefix="attndistill-slurm-", dir="/tmp"))  # a socket's path is short
    for name in ("state", "spool"):
        (home / name).mkdir()
    (home / "key").write_bytes(os.urandom(1024))
    (home / "key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    settings = {"home": home, "host": host, "cores": os.cpu_count(), "controller": _port(), "daemon": _port()}
    (home / "slurm.conf").write_text(_SETTINGS.format(**settings))
    environment = {"SLURM_CONF": str(home / "slurm.conf")}
    files = [f"--{name}={home}/{name}" for name in ("pid-file", "log-file", "seed-file")]
    munge = ["munged", "--foreground", "--force", f"--key-file={home}/key", f"--socket={home}/munge.socket", *files]
    commands = [munge, ["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", host]]
    running: list[subprocess.Popen[bytes]] = []
    log = (home / "log").open("wb")
    try:
        for command in commands:
            running.append(
                subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=home)
            )
            time.sleep(0.5)
        _wait_for_idle(environment, home)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()
        shutil.rmtree(home)


def ask(environment: dict[str, str], *words: str) -> str:
    """What a program of SLURM answers."""
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _wait_for_idle(environment: dict[str, str], home: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        asked = {**os.environ, **environment}
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=asked, capture_output=True, text=True, check=False)
        if done.stdout.strip() == "idle":
            return
        logs = "".join(path.read_text(errors="replace") for path in home.glob("*.log"))
        assert time.monotonic() < deadline, f"{done.stdout}{done.stderr}{(home / 'log').read_text()}{logs}"
        time.sleep(0.2)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

"""Parsl: workers on the machines that an `--on` file names, and tasks given to them as they become ready."""

import concurrent.futures
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import attndistill
from attndistill.core.progress import say
from attndistill.core.words import shown
from attndistill.engine.board import BEAT, Board, Entry
from attndistill.engine.on import Executor, Kubernetes, Local, Lsf, Pbs, Slurm
from attndistill.engine.work import Job, get_ready, perform

_ANSWER = 120  # seconds that an interchange may take for an answer
_LOOK = 0.5  # seconds between looks at the tasks
_LINE_EVERY = 15.0  # seconds between summaries where there is no terminal
_CARRIED = ("ATTNDISTILL_", "MLFLOW_", "OMP_", "MKL_", "OPENBLAS_", "CUBLAS_", "PYTHONHASHSEED")  # of the environment
_NEVER = ("MLFLOW_RUN_ID",)  # the driver's own
# a driver that is killed takes its parts along: the interchange by Linux's death signal, local workers by this loop;
# Ctrl-C in a terminal is for the driver alone, which ends the interchange last
_INTERCHANGE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == {driver} or sys.exit(1); os.setsid(); "
    "os.execvp('interchange.py', ['interchange.py'])"
)
_BLAUNCH = 'blaunch -z "$(sort -u "$LSB_DJOB_HOSTFILE" | xargs)"'  # LSF's own way to every node of a job
_WATCH = "( while kill -0 {driver}; do sleep 1; done; kill -KILL 0 ) 2>/dev/null &"


def run_jobs(
    jobs: Sequence[Job],
    on: Executor,
    board: Board,
    look: Callable[[], None],
    more: Mapping[str, str],
) -> None:
    """Run tasks on workers, each when those it needs are done; show them meanwhile.

    Args:
        jobs: in an order in which none comes before what it needs.
        on: where.
        board: of this run, begun.
        look: called twice a second.
        more: variables of the workers' environment.

    Raises:
        ValueError, FloatingPointError, OSError: what the first task that failed says; all that could be done is done.
    """
    carried = {k: v for k, v in os.environ.items() if k.startswith(_CARRIED) and k not in _NEVER}
    environment = {**carried, **more}
    devices, argv = tuple(on.devices), tuple(_without_on(sys.argv))
    with _engine(on, board) as (app, alive):
        futures: dict[str, concurrent.futures.Future[Any]] = {}
        do, warm = app(perform), app(get_ready)
        for job in jobs:
            ready = replace(job, board=board.folder, devices=devices, environment=environment, argv=argv)
            futures[job.name] = do(ready, inputs=[futures[need] for need in job.needs if need in futures])
        for _ in devices[1:]:
            warm(ready)
        _wait(futures, board, look, alive)
    failed = {name: future.exception() for name, future in futures.items() if future.exception() is not None}
    _conclude(failed, board, len(futures))


def _without_on(words: Sequence[str]) -> Iterator[str]:
    skip = False
    for word in words:
        if not skip and word != "--on" and not word.startswith("--on="):
            yield word
        skip = word == "--on" and not skip


def _wait(
    futures: dict[str, "concurrent.futures.Future[Any]"],
    board: Board,
    look: Callable[[], None],
    alive: Callable[[], bool],
) -> None:
    waiting, screen = set(futures), _Screen(board)
    with screen:
        while waiting:
            concurrent.futures.wait([futures[name] for name in waiting], _LOOK, concurrent.futures.FIRST_COMPLETED)
            board.beat()
            look()
            if not alive():
                raise OSError("the engine's interchange was killed: start this again, and it goes on")
            ended = {name for name in waiting if futures[name].done()}
            for name in ended:
                _note(name, futures[name].exception(), board)
            waiting -= ended
            screen.show(sorted(ended))


def _note(name: str, error: BaseException | None, board: Board) -> None:
    """A worker that died for good has said nothing; one whose inputs failed was never begun."""
    entry = board.entry(name)
    if error is None or _is_of_inputs(error) or (entry and entry.state == "failed"):
        return
    before = entry or Entry(state="failed")
    board.write(name, before.model_copy(update={"state": "failed", "how": _words(error)}))


def _conclude(failed: dict[str, BaseException | None], board: Board, count: int) -> None:
    own = {name: error for name, error in failed.items() if error is not None and not _is_of_inputs(error)}
    if not own:
        return
    name, error = next(iter(own.items()))
    more = f" ({len(own)} of {count} tasks failed, {len(failed) - len(own)} waited for them)" if len(failed) > 1 else ""
    text = f"{name}: {_words(error)}{more}"
    raise type(error)(text) if type(error) in (ValueError, FloatingPointError) else OSError(text)


def _words(error: BaseException) -> str:
    kind = type(error).__name__
    if kind in ("ManagerLost", "WorkerLost"):
        return f"its worker died again and again without coming further: {shown(' '.join(str(error).split()), 200)}"
    if kind == "TooManyJobFailuresError" or "BadState" in kind:
        return f"jobs end before a worker starts: {shown(' '.join(str(error).split()), 400)}"
    known = type(error) in (ValueError, FloatingPointError)
    return shown(" ".join(str(error).split()) if known else f"{kind}: {' '.join(str(error).split())}", 600)


def _is_of_inputs(error: BaseException) -> bool:
    return type(error).__name__ == "DependencyError"


class _Retries:
    """What another attempt costs: nothing for a worker that was taken away while its task came further."""

    def __init__(self, board: Board, most: int) -> None:
        self.board, self.most = board, most
        self.reached: dict[str, int] = {}

    def __call__(self, error: Exception, record: Any) -> float:
        if isinstance(error, (ValueError, FloatingPointError)) or _is_of_inputs(error):
            return float(self.most + 1)
        name = record["args"][0].name
        entry = self.board.entry(name)
        reached, before = (entry.done if entry else 0), self.reached.get(name, 0)
        self.reached[name] = max(reached, before)
        return 0.0 if reached > before and type(error).__name__ in ("ManagerLost", "WorkerLost") else 1.0


@contextmanager
def _engine(on: Executor, board: Board) -> Iterator[tuple[Callable[..., Any], Callable[[], bool]]]:
    """A running engine; yields what makes a task of a function, and whether it lives. Logs stay if it ended badly."""
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", "")])  # Parsl starts its parts by name
    import parsl

    logging.getLogger("parsl").setLevel(logging.CRITICAL)
    logs = board.folder / "parsl"
    shutil.rmtree(logs, ignore_errors=True)
    executor = _executor(on)
    config = parsl.Config(
        executors=[executor],
        retries=on.retries,
        retry_handler=_Retries(board, on.retries),
        run_dir=str(logs),
        strategy="simple",
        strategy_period=2,
        initialize_logging=False,
        usage_tracking=0,
    )
    loaded = parsl.load(config)
    try:
        yield partial(parsl.python_app, data_flow_kernel=loaded), lambda: executor.interchange_proc.poll() is None
    finally:
        loaded.cleanup()
        parsl.clear()
    shutil.rmtree(logs, ignore_errors=True)
    shutil.rmtree(board.folder / "locks", ignore_errors=True)


def _executor(on: Executor) -> Any:
    from parsl import HighThroughputExecutor
    from parsl.executors.high_throughput.errors import CommandClientBadError, CommandClientTimeoutError
    from parsl.jobs.error_handlers import windowed_error_handler

    class Asking(HighThroughputExecutor):  # type: ignore[misc]  # Parsl has no types
        """Asks its interchange only as long as that lives: Parsl would wait for ever."""

        def start(self) -> None:
            super().start()
            self.command_client.run = partial(self.command_client.run, timeout_s=_ANSWER)

        def connected_managers(self) -> Any:
            return self._answer(super().connected_managers)

        def connected_blocks(self) -> Any:
            return self._answer(super().connected_blocks)

        def _answer(self, ask: Callable[[], Any]) -> Any:
            try:
                return ask() if self.interchange_proc.poll() is None else []
            except (CommandClientBadError, CommandClientTimeoutError):
                return []

    place = {"address": "127.0.0.1", "loopback_address": "127.0.0.1"} if isinstance(on, Local) else {}
    return Asking(
        label="attndistill",
        provider=provider_of(on),
        max_workers_per_node=len(on.devices),
        cores_per_worker=1e-6,  # how many there are, the file says
        heartbeat_period=1 if isinstance(on, Local) else max(1, on.heartbeat // 4),
        heartbeat_threshold=on.heartbeat,
        block_error_handler=windowed_error_handler,
        interchange_launch_cmd=[sys.executable, "-c", _INTERCHANGE.format(driver=os.getpid())],
        **place,
    )


def provider_of(on: Executor) -> Any:
    """What starts workers: processes here, jobs of a batch system, pods."""
    from parsl import launchers, providers

    code = str(Path(attndistill.__file__).parents[1])
    lines = [
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        f"export PYTHONPATH={shlex.quote(code)}${{PYTHONPATH:+:$PYTHONPATH}}",
        on.setup,
    ]
    given: dict[str, Any] = {"worker_init": "\n".join(lines), "init_blocks": 1, "min_blocks": 0}
    if isinstance(on, Local):
        given["worker_init"] += "\n" + _WATCH.format(driver=os.getpid())
        return providers.LocalProvider(**given, max_blocks=1)
    if isinstance(on, Kubernetes):
        return providers.KubernetesProvider(
            **given,
            image=on.image,
            namespace=on.namespace,
            max_blocks=on.pods,
            init_cpu=on.cores,
            max_cpu=on.cores,
            init_mem=on.memory,
            max_mem=on.memory,
            persistent_volumes=list(on.volumes.items()),
            service_account_name=on.service_account,
            extra_limits={} if on.cards is None else {"nvidia.com/gpu": str(on.cards)},
        )
    kind, more, mark, words, several = _batch(on)
    given |= {"nodes_per_block": on.nodes, "max_blocks": on.jobs, "walltime": on.time, "cmd_timeout": 60, **more}
    given["scheduler_options"] = "\n".join(f"{mark} {word}" for word in words)
    given["launcher"] = several if on.nodes > 1 else launchers.SingleNodeLauncher()
    asked = type(kind.__name__, (kind,), {"status_polling_interval": on.look})
    return asked(**given)


def _batch(on: Slurm | Pbs | Lsf) -> tuple[type, dict[str, Any], str, list[str], Any]:
    """Of a batch system: Parsl's provider and its settings; lines of the script; what starts workers on every node."""
    from parsl import launchers, providers

    if isinstance(on, Slurm):
        return providers.SlurmProvider, {"exclusive": False}, "#SBATCH", on.words, launchers.SrunLauncher()
    if isinstance(on, Pbs):
        more = {"queue": on.queue, "account": on.account, "cpus_per_node": on.cores, "select_options": on.select or ""}
        return providers.PBSProProvider, more, "#PBS", on.options, launchers.MpiExecLauncher()
    more = {"queue": on.queue, "project": on.project, "bsub_redirection": True}  # else bsub does not read the script
    if on.cores is None:  # IBM's machines count nodes
        return providers.LSFProvider, more, "#BSUB", on.options, launchers.JsrunLauncher()
    more |= {"request_by_nodes": False, "cores_per_node": on.cores, "cores_per_block": on.cores * on.nodes}
    return providers.LSFProvider, more, "#BSUB", on.options, launchers.WrappedLauncher(_BLAUNCH)


class _Screen:
    """All tasks on one screen of a terminal; elsewhere a line a task that ends, and a summary now and then."""

    def __init__(self, board: Board) -> None:
        self.board, self.last = board, time.monotonic()
        self.live: Any = None

    def __enter__(self) -> "_Screen":
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()
        say(self.board.lines(every=False)[0], "stderr")

    def show(self, ended: Iterable[str]) -> None:
        """What the board says now; its files are read as seldom as they change."""
        for name in () if self.live else ended:
            if self.board.entry(name):  # of those whose needs have failed, nothing is known
                say(self.board.line(name), "stderr")
        if time.monotonic() - self.last < (BEAT if self.live else _LINE_EVERY):
            return
        self.last, lines = time.monotonic(), self.board.lines(every=False)
        if self.live:
            from rich.text import Text

            self.live.update(Text("\n".join(lines[: self.live.console.height - 1])))
        else:
            say(lines[0], "stderr")

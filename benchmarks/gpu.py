"""All that a GPU has to show, in one command of minutes: `make gpu-check`, or `python -m benchmarks.gpu`.

Every part runs in a process of its own, within its seconds, and writes each figure as soon as it is known: what fails,
hangs or no longer fits costs itself alone. `--device cpu` runs all of it at toy size to try it; those figures mean
nothing. `--render` writes the page of a gpu.json again.
"""

import argparse
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from attndistill.core.artifacts import read_json, write_json, write_text

ROOT = Path(__file__).parents[1]
MEMORY_SHARE = 0.8  # of the card, that a batch may fill
REFERENCE_SECONDS = 0.6  # of the published fp32 step at the common batch size: bounds the whole
NAMES = ("s16-t16", "s8-s16", "b16-s16", "small")


@dataclass(frozen=True)
class Check:
    """One part at work: where it writes and how long it has.

    Attributes:
        folder: of gpu.json and gpu.md.
        part: its name.
        kind: "cuda" or "cpu".
        ends: when, by the monotonic clock.
    """

    folder: Path
    part: str
    kind: str
    ends: float

    @property
    def toy(self) -> bool:
        return self.kind == "cpu"

    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def tell(self, key: str, value: Any) -> None:
        """Write a figure, and the page."""
        path = self.folder / "gpu.json"
        found = read_json(path)
        found["parts"].setdefault(self.part, {})[key] = value
        write_json(path, found)
        write_text(path.with_suffix(".md"), page(read_json(path)))

    def attempt(self, key: str, seconds: float, work: Callable[[], Any]) -> Any:
        """Do a piece of work and write what it found, what went wrong, or that too little time was left for it."""
        if self.left() < seconds:
            return self.tell(key, f"skipped: {self.left():.0f} s were left, {seconds:.0f} s are wanted")
        start = time.monotonic()
        try:
            found = work()
        except Exception:
            traceback.print_exc()
            self.tell("errors", {**self._errors(), key: traceback.format_exc()[-3000:]})
            return None
        finally:
            _tidy()
        print(f"  {self.part}: {key}, {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        self.tell(key, found)
        return found

    def _errors(self) -> dict[str, str]:
        errors: dict[str, str] = read_json(self.folder / "gpu.json")["parts"].get(self.part, {}).get("errors", {})
        return errors


def _tidy() -> None:
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------------------- the parts


def tests(check: Check) -> None:
    """The tests marked gpu."""
    chosen = "tests/gpu/test_cuda_numbers.py" if check.toy else "tests/gpu"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", chosen, "-ra", "--tb=short", "--durations=5"]
    environment = os.environ | {"ATTNDISTILL_TEST_DEVICE": check.kind, "PYTHONUNBUFFERED": "1"}
    log = check.folder / "gpu-tests.txt"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        try:
            code: int | str = process.wait(timeout=max(1, check.left()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = "out of time"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines[-60:]), file=sys.stderr, flush=True)
    check.tell("outcome", lines[-1] if lines else "")
    check.tell("unlike passed", [line for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))])
    if code != 0:
        check.tell("errors", {"pytest": f"code {code}\n" + "\n".join(lines[-80:])})


def steps(check: Check) -> None:
    """Steps of every pair: what fills the card, then ratios at a common batch size."""
    import torch

    from benchmarks import step
    from benchmarks.configurations import CONFIGURATIONS, Pair
    from benchmarks.machine import precisions
    from benchmarks.variants import Variant

    device = torch.device(check.kind)
    check.tell("share_of_memory", MEMORY_SHARE)
    for name in NAMES[-1:] if check.toy else NAMES:
        pair = Pair.built(CONFIGURATIONS[name], device)
        wanted = precisions(check.kind)
        filling = {}
        for variant in [Variant(way, kind) for kind in wanted if kind != wanted[0] for way in ("reference", "exact")]:
            filling[variant.name] = check.attempt(
                f"{name}: filling the card, {variant.name}", 8, partial(_filling, variant, pair, check.toy)
            )
        fitting = [one["batch_size"] for one in filling.values() if one]
        rate = check.attempt(f"{name}: images a second of the reference in fp32", 5, partial(_rate, pair, check.toy))
        batch_size = 2 if check.toy or not rate else _power_of_two(rate * REFERENCE_SECONDS)
        batch_size = min([batch_size, *fitting])
        check.attempt(
            f"{name}: ratios",
            30 if not check.toy else 1,
            partial(
                step.measure,
                CONFIGURATIONS[name],
                device,
                wanted,
                repeats=1 if check.toy else 3,
                batch_size=batch_size,
            ),
        )
        del pair


def _rate(pair: Any, toy: bool) -> float:
    """Images a second of the published fp32 step, at a batch that any card holds."""
    from benchmarks.variants import REFERENCE

    return float(_timed_at(REFERENCE, pair, 2 if toy else 32)["images_a_second"])


def _filling(variant: Any, pair: Any, toy: bool) -> dict[str, Any]:
    """The largest power of two that a share of the memory holds, found from two small batches, then tried."""
    import torch

    small = (1, 2) if toy else (8, 16)
    room = 2e8 if toy else MEMORY_SHARE * torch.cuda.get_device_properties(pair.device).total_memory
    first, second = (_timed_at(variant, pair, size)["held_bytes"] for size in small)
    an_image = max(1.0, (second - first) / (small[1] - small[0]))
    size = min(_power_of_two((room - first) / an_image), 4 if toy else 65536)
    while size >= 1:
        try:
            return {"batch_size": size, **_timed_at(variant, pair, size), "bytes_an_image": an_image}
        except torch.cuda.OutOfMemoryError:
            size //= 2
        _tidy()  # after the exception has let its frames go
    raise RuntimeError(f"no batch of {variant.name} fits")


def _timed_at(variant: Any, pair: Any, size: int) -> dict[str, float]:
    """Memory of a step, what is held between steps included, and images a second; two steps before do not count."""
    import torch

    from benchmarks.machine import synchronise
    from benchmarks.memory import peak_bytes
    from benchmarks.variants import prepare

    step = prepare(variant, pair, _noise(pair, size), None).step
    step()
    held = torch.cuda.memory_allocated(pair.device) if pair.device.type == "cuda" else 0
    held += peak_bytes(step, pair.device)
    seconds = []
    for _ in range(3):
        synchronise(pair.device)
        start = time.perf_counter()
        step()
        synchronise(pair.device)
        seconds.append(time.perf_counter() - start)
    return {"held_bytes": held, "images_a_second": size / min(seconds)}


def _noise(pair: Any, size: int) -> Any:
    import numpy as np
    import torch

    from attndistill.data.loading import Batch

    side = pair.configuration.image_size
    images = torch.randn(size, 3, side, side, device=pair.device)
    return Batch(images, torch.zeros(size, dtype=torch.int64), np.arange(size), 0)


def _power_of_two(value: float) -> int:
    """The largest that is not above `value`; at least 1."""
    return int(2 ** (max(1, int(value)).bit_length() - 1))


def training(check: Check) -> None:
    """A short distillation: determinism, kill -9 and resume."""
    import torch

    from benchmarks import training as short

    shared = Path("/dev/shm")  # where loaders leave their batches: 40 MB each
    workers = 8 if shared.exists() and shutil.disk_usage(shared).free > 2e9 else 0
    settings: dict[str, Any] = {"steps": 120, "batch_size": 64, "workers": workers, "checkpoint_seconds": 0.5}
    if check.toy:
        settings = {"steps": 8, "batch_size": 4, "workers": 0, "checkpoint_seconds": 0.0}
    name = NAMES[-1] if check.toy else NAMES[0]
    for precision in ("bf16", "fp32"):
        with tempfile.TemporaryDirectory() as folder:
            found = check.attempt(
                precision,
                1 if check.toy else 25,
                partial(short.measure, name, Path(folder), torch.device(check.kind), precision=precision, **settings),
            )
        if found and not (found["two_runs_are_the_same_bytes"] and found["killed_and_resumed_is_the_same_bytes"]):
            check.tell("errors", {**check._errors(), precision: "runs that should be alike are not the same bytes"})


def loader(check: Check) -> None:
    """Images a second of the training loader, by its processes, from memory and from JPEG files."""
    import torch

    from attndistill.data.loading import Schedule, training_batches
    from benchmarks.configurations import CONFIGURATIONS, made_up_images
    from benchmarks.data import write_jpegs

    torch.set_num_threads(1)  # as `runtime.threads` has it
    configuration = CONFIGURATIONS["small" if check.toy else NAMES[0]]
    count, size, seconds = (8, 4, 0.2) if check.toy else (256, 64, 3.0)

    def rate(images: Any, workers: int) -> float:
        batches = training_batches(
            images, configuration.recipe, Schedule(count, size, 10_000, 0), first_step=0, workers=workers
        )
        for _ in range(1 + workers):
            next(batches)  # the processes have started and one of their batches each is waiting
        start, taken = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            taken += len(next(batches).indices)
        return taken / (time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder:
        sources = {
            "from memory": made_up_images(configuration, count),
            "from JPEG": write_jpegs(Path(folder), count)[0],
        }
        for workers in (0, 1) if check.toy else (0, 4, 8, 16):
            for name, images in sources.items():
                key = f"{name}, {workers} workers, images a second"
                check.attempt(key, 2 * seconds, partial(rate, images, workers))
    check.tell("processors", len(os.sched_getaffinity(0)))
    ratios = read_json(check.folder / "gpu.json")["parts"].get("steps", {}).get(f"{NAMES[0]}: ratios", {})
    for variant, found in ratios.get("variants", {}).items() if isinstance(ratios, dict) else ():
        consumed = ratios["batch_size"] / found["seconds"]["median"]
        check.tell(f"consumed by a step, {variant}, images a second", consumed)


def profile(check: Check) -> None:
    """The operators that an exact bf16 step spends its time in."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from benchmarks.configurations import CONFIGURATIONS, Pair
    from benchmarks.machine import synchronise
    from benchmarks.variants import Variant, prepare

    device = torch.device(check.kind)

    def top(name: str) -> list[dict[str, Any]]:
        pair = Pair.built(CONFIGURATIONS[name], device)
        size = 2 if check.toy else CONFIGURATIONS[name].batch_size[check.kind]
        step = prepare(Variant("exact", "bf16"), pair, _noise(pair, size), None).step
        for _ in range(3):
            step()
        synchronise(device)
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if check.kind == "cuda" else [])
        with profiler(activities=activities) as found:
            step()
            synchronise(device)
        times = [
            (event.self_cpu_time_total if check.toy else event.self_device_time_total, event.count, event.key)
            for event in found.key_averages()
        ]
        whole = sum(time for time, _, _ in times) or 1
        return [
            {"operator": key[:90], "calls": count, "milliseconds": time / 1e3, "share": time / whole}
            for time, count, key in sorted(times, reverse=True)[:12]
        ]

    for name in NAMES[-1:] if check.toy else NAMES:
        check.attempt(name, 1 if check.toy else 5, partial(top, name))


def compiled(check: Check) -> None:
    """A trial, adopted nowhere: CUDA graphs and torch.compile against the same step run eagerly."""
    import torch

    from benchmarks.configurations import CONFIGURATIONS, Pair

    device = torch.device(check.kind)
    for way in ("torch.compile",) if check.toy else ("CUDA graph", "torch.compile", "torch.compile reduce-overhead"):
        for name in (NAMES[-1],) if check.toy else (NAMES[0], NAMES[-1]):
            for precision in ("bf16", "fp32"):
                for algorithm in ("cached", "exact"):
                    pair = Pair.built(CONFIGURATIONS[name], device)
                    key = f"{name}: {way}, {algorithm} {precision}"
                    wanted = 1 if check.toy else 5 if way == "CUDA graph" else 15
                    check.attempt(
                        key,
                        wanted,
                        partial(_trial, pair, way, algorithm, precision, check.toy),
                    )


def _trial(pair: Any, way: str, algorithm: str, precision: str, toy: bool) -> dict[str, float]:
    """Seconds of a bare step (forward, backward, optimizer), eagerly and this way."""
    import copy

    import torch

    from attndistill.targets import LiveTeacher
    from attndistill.training.optimizers import adamw

    torch._dynamo.reset()
    size = 2 if toy else min(128, pair.configuration.batch_size[pair.device.type])
    batch, live = _noise(pair, size), LiveTeacher(pair.teacher, pair.device)
    answers = live(batch)  # "cached": the teacher's answers wait on the device
    mixed = precision == "bf16"

    def make(wrap: Callable[[Any], Any]) -> tuple[Any, Any]:
        task = replace(pair, student=copy.deepcopy(pair.student)).task(
            live if algorithm == "exact" else lambda batch: answers
        )
        task.train()
        optimizer = adamw(task)
        for group in optimizer.param_groups:
            group["lr"] = 1e-4
        forward = wrap(task)

        def gradients() -> None:
            with torch.autocast(pair.device.type, torch.bfloat16, cache_enabled=False) if mixed else nullcontext():
                loss = forward(batch)["loss"]
            loss.backward()

        return gradients, optimizer

    def stepping(gradients: Any, optimizer: Any, keep: bool = False) -> Callable[[], None]:
        def step() -> None:
            gradients()
            optimizer.step()
            if not keep:
                optimizer.zero_grad()

        return step

    eager = stepping(*make(lambda task: task))
    before = _seconds(eager, pair.device)
    start = time.perf_counter()
    if way == "CUDA graph":
        other = stepping(*_graphed(*make(lambda task: task)), keep=True)
    else:
        how: dict[str, Any] = {"mode": "reduce-overhead" if way.endswith("overhead") else "default"}
        how = {"backend": "eager"} if toy else how
        other = stepping(*make(lambda task: torch.compile(task, **how)))
    other()
    other()
    making = time.perf_counter() - start
    after = _seconds(other, pair.device)
    return {
        "batch_size": size,
        "eager_ms": 1e3 * before,
        "ms": 1e3 * after,
        "ratio": before / after,
        "making_s": making,
    }


def _graphed(gradients: Any, optimizer: Any) -> tuple[Any, Any]:
    """Forward and backward captured once, played back after; gradients are overwritten at every playback."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gradients()
            optimizer.zero_grad()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gradients()
    return graph.replay, optimizer


def _seconds(step: Callable[[], None], device: Any) -> float:
    """Of one step, the best of three samples; two steps before do not count."""
    from benchmarks.machine import synchronise

    step()
    step()
    found = []
    for _ in range(3):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(10 if device.type == "cuda" else 1):
            step()
        synchronise(device)
        found.append((time.perf_counter() - start) / (10 if device.type == "cuda" else 1))
    return min(found)


PARTS: dict[str, tuple[Callable[[Check], None], float]] = {  # and its seconds at most
    "tests": (tests, 130),
    "steps": (steps, 210),
    "training": (training, 75),
    "loader": (loader, 50),
    "profile": (profile, 40),
    "compiled": (compiled, 240),
}


# ------------------------------------------------------------------------------------------------------------ the page


def page(found: dict[str, Any]) -> str:
    """All figures as Markdown."""
    from benchmarks.tables import configuration_tables, machine_line  # the tables of a step are those of `make bench`

    parts = ["# On a GPU\n"]
    if found.get("machine"):
        parts.append(machine_line(found) + "\n")
        if found["machine"]["device"] == "cpu":
            parts.append("**A trial at toy size on a CPU: these figures mean nothing.**\n")
    for name in (name for name in PARTS if name in found["parts"]):
        one: dict[str, Any] = found["parts"][name]
        parts.append(f"## {name.capitalize()}\n")
        plain = []
        for key, value in one.items():
            match value:
                case dict() if "variants" in value:
                    parts.append(configuration_tables(value).replace("## ", "### ", 1))
                case [{"operator": _}, *_]:
                    parts.append("\n".join([f"### {key}\n", *_operators(value)]) + "\n")
                case dict() if key != "errors":
                    plain.append(
                        f"- {key}: " + ", ".join(f"{k.replace('_', ' ')} {_cell(v)}" for k, v in value.items())
                    )
                case dict():
                    parts += [f"**Failed: {k}**\n\n```\n{v}\n```\n" for k, v in value.items()]
                case _:
                    plain.append(f"- {key.replace('_', ' ')}: {_cell(value)}")
        parts += ["\n".join(plain) + "\n"] if plain else []
    return "\n".join(parts)


def _operators(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| operator | calls | ms | share |\n|---|---|---|---|"
    for row in rows:
        name = row["operator"].replace("|", "/")
        yield f"| `{name}` | {row['calls']} | {row['milliseconds']:.3g} | {100 * row['share']:.0f} % |"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_cell, value)) or "none"
    if isinstance(value, float) and value >= 1e6:
        return f"{value:.3e}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------------------- driving


def run_part(check: Check) -> int:
    """Do a part in this process; 1 where anything of it failed."""
    try:
        if check.part != "tests":  # they run in a process of their own
            import torch

            from benchmarks.machine import describe

            found = read_json(check.folder / "gpu.json")
            found["machine"] = describe(torch.device(check.kind))
            write_json(check.folder / "gpu.json", found)
        PARTS[check.part][0](check)
    except Exception:
        traceback.print_exc()
        check.tell("errors", {**check._errors(), check.part: traceback.format_exc()[-3000:]})
    return int(bool(check._errors()))


def start_part(check: Check, command: list[str], seconds: float) -> int:
    """Do a part in a process of its own, ended when its time is up."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        code = -signal.SIGKILL
        check.tell("errors", {**check._errors(), "time": f"ended after {seconds:.0f} s"})
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its loaders and tests too
        process.wait()
    if code not in (0, 1, -signal.SIGKILL):
        check.tell("errors", {**check._errors(), "process": f"ended with code {code}"})
    return code


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after another; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="all when left out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=560, help="for all parts together (default 560)")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder of gpu.json and gpu.md")
    parser.add_argument("--render", type=Path, metavar="GPU_JSON", help="write the .md beside it, measure nothing")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # a part in this process
    options = parser.parse_args(arguments)
    if options.render:
        write_text(options.render.with_suffix(".md"), page(read_json(options.render)))
        return 0
    folder = options.output.resolve()
    began = time.monotonic()
    if options.here:
        return run_part(Check(folder, options.part[0], options.device, began + options.seconds))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "gpu.json", {"parts": {}})
    failed = 0
    for name in options.part or PARTS:
        check = Check(folder, name, options.device, began)
        left = options.seconds - (time.monotonic() - began)
        seconds = min(PARTS[name][1] * (5 if check.toy else 1), left)  # a trial may run beside others
        if seconds < 15:
            check.tell("skipped", f"{left:.0f} s were left")
            continue
        print(f"{name}: {seconds:.0f} s at most", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.gpu", name, "--here", "--device", options.device]
        command += ["--output", str(folder), "--seconds", str(seconds - 6)]
        start = time.monotonic()
        failed |= start_part(check, command, seconds) != 0
        check.tell("seconds", time.monotonic() - start)
    print((folder / "gpu.md").read_text(encoding="utf-8"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

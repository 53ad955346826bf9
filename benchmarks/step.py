"""How fast a training step is, beside the published algorithm done plainly, in one process (`make bench`).

Every round times one step of every variant, so a busy neighbour slows both sides of a ratio; ratios are taken round by
round and their median and quartiles are given. What a reader would get wrong: seconds here depend on the machine and
its neighbours, ratios much less.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from attndistill.core.artifacts import write_json, write_text
from attndistill.core.process import keep_memory
from attndistill.targets import LiveTeacher
from benchmarks.configurations import CONFIGURATIONS, Configuration, Pair, first_batch, made_up_images
from benchmarks.machine import PRECISIONS, describe, gemm_rate, precisions, products_in, synchronise
from benchmarks.memory import peak_bytes
from benchmarks.tables import page
from benchmarks.timing import spread
from benchmarks.variants import PHASES, REFERENCE, VARIANTS, Prepared, Variant, prepare, stored

OUTPUT = Path("results/benchmarks/step.json")
_SECONDS_A_SAMPLE = 0.3  # of a GPU, whose short steps no clock would tell apart; a CPU's sample is one step


def measure(
    configuration: Configuration, device: torch.device, wanted: list[str], *, repeats: int, batch_size: int | None
) -> dict[str, Any]:
    """All figures of one configuration.

    Args:
        configuration: teacher and student.
        device: where.
        wanted: of "fp32", "tf32" (CUDA alone) and "bf16"; the reference in fp32 is always measured.
        repeats: rounds.
        batch_size: images a step, or None for the configuration's own.
    """
    batch_size = batch_size or configuration.batch_size[device.type]
    images = made_up_images(configuration, batch_size)
    pair = Pair.built(configuration, device)
    batch = first_batch(images, configuration)
    variants = [variant for variant in VARIANTS if variant == REFERENCE or variant.precision in wanted]
    with tempfile.TemporaryDirectory() as folder:
        teacher = LiveTeacher(pair.teacher, device)
        with products_in("fp32"):  # entries are computed again, alone, and compared
            targets = stored(teacher, images, configuration.recipe, Path(folder), batch_size=batch_size)
        prepared = [prepare(variant, pair, batch, targets) for variant in variants]
        found = {one.variant.name: _once(one, device) for one in prepared}
        samples = list(_rounds(prepared, device, wanted, repeats))
    start = time.perf_counter()
    first_batch(images, configuration)
    data = time.perf_counter() - start
    for one in prepared:
        found[one.variant.name] |= _summary(one.variant, samples, found[one.variant.name]["flops"])
    gemm = {name: spread([sample[f"gemm {name}"][0] for sample in samples]) for name in wanted}
    return {
        "label": configuration.label,
        "batch_size": batch_size,
        "rounds": repeats,
        "gemm_flops_per_second": gemm,
        "data_seconds": data,
        "variants": found,
    }


def _once(prepared: Prepared, device: torch.device) -> dict[str, Any]:
    """What one step tells without being timed, after one to warm up."""
    prepared.step()
    with FlopCounterMode(display=False) as counter:
        prepared.step()
    return {"flops": counter.get_total_flops(), "peak_bytes": peak_bytes(prepared.step, device)}


Sample = dict[str, tuple[float, ...]]


def _rounds(prepared: list[Prepared], device: torch.device, wanted: list[str], repeats: int) -> Iterator[Sample]:
    """Name -> (seconds, processor seconds, seconds of each phase), round by round, every second one backwards."""
    for number in range(repeats):
        sample: Sample = {f"gemm {name}": (gemm_rate(name, device),) for name in wanted}
        for one in prepared[:: -1 if number % 2 else 1]:
            sample[one.variant.name] = _timed(one, device)
        print(f"  round {number + 1} of {repeats}", file=sys.stderr, flush=True)
        yield sample


def _timed(one: Prepared, device: torch.device) -> tuple[float, ...]:
    one.clock.runs = True
    first = _clocked(one, device, 1)
    phases = one.clock.phases()
    if device.type == "cpu":
        return *first, *phases.values()
    steps = max(1, min(50, round(_SECONDS_A_SAMPLE / first[0])))
    one.clock.runs = False  # its waiting for the device would be part of the time
    return *_clocked(one, device, steps), *phases.values()


def _clocked(one: Prepared, device: torch.device, steps: int) -> tuple[float, float]:
    """Seconds and processor seconds of a step."""
    synchronise(device)
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        one.step()
    synchronise(device)
    return (time.perf_counter() - start) / steps, (time.process_time() - busy) / steps


def _summary(variant: Variant, samples: list[Sample], flops: int) -> dict[str, Any]:
    mine, theirs = ([sample[name] for sample in samples] for name in (variant.name, REFERENCE.name))
    summary: dict[str, Any] = {
        "seconds": spread([one[0] for one in mine]),
        "ratio": spread([other[0] / one[0] for one, other in zip(mine, theirs, strict=True)]),
        "ratio_of_processor_time": spread([other[1] / one[1] for one, other in zip(mine, theirs, strict=True)]),
        "phase_seconds": {
            name: float(np.median([one[2 + place] for one in mine])) for place, name in enumerate(PHASES)
        },
    }
    if f"gemm {variant.precision}" in samples[0]:
        shares = [flops / sample[variant.name][0] / sample[f"gemm {variant.precision}"][0] for sample in samples]
        summary["share_of_gemm"] = spread(shares)
    return summary


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for, print the table, and write it when all of it was measured or a place is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--configuration", action="append", choices=list(CONFIGURATIONS), help="all when left out")
    parser.add_argument("--dtype", action="append", choices=list(PRECISIONS), help="all when left out")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--batch-size", type=int, help="images a step")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads on a CPU (default 1, as runtime.threads)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help=f"JSON, beside it a .md (default, of a whole run: {OUTPUT})")
    options = parser.parse_args(arguments)
    keep_memory()  # as the package's programs do
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}; allowed: 1 or more")
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    wanted = options.dtype or precisions(device.type)
    allowed = precisions(device.type)
    if beyond := set(wanted) - set(allowed):
        parser.error(f"--dtype {', '.join(beyond)} on {device.type}; allowed there: {', '.join(allowed)}")
    found: dict[str, Any] = {"machine": describe(device), "configurations": {}}
    for name in options.configuration or CONFIGURATIONS:
        print(name, file=sys.stderr, flush=True)
        found["configurations"][name] = measure(
            CONFIGURATIONS[name], device, wanted, repeats=options.repeats, batch_size=options.batch_size
        )
    text = page(found)
    print(text)
    whole = not (options.configuration or options.dtype or options.batch_size)
    if output := options.output or (OUTPUT if whole else None):
        write_json(output, found)
        write_text(output.with_suffix(".md"), text)


if __name__ == "__main__":
    main()

"""Every benchmark in one command: `make bench`, or `python -m benchmarks` with the names of some.

Figures go to results/benchmarks/<part>.json and .md; docs/performance.md says what they mean.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attndistill.core.artifacts import write_json, write_text
from attndistill.core.process import keep_memory
from benchmarks import cache, data, engine, heads, kernels, pair, probes, search, startup, step
from benchmarks.configurations import CONFIGURATIONS
from benchmarks.machine import describe, precisions
from benchmarks.tables import comparison_page

RESULTS = Path("results/benchmarks")
PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "data": lambda repeats: data.measure(repeats=repeats, images=256, workers=2),
    "pair": lambda repeats: pair.measure(
        repeats=min(repeats, 5), images=256, batch_size=32, workers=2, precisions=precisions("cpu")
    ),
    "cache": lambda repeats: (
        cache.measure(repeats=repeats, images=4096, views=4)
        | cache.paying([CONFIGURATIONS["s16-t16"], CONFIGURATIONS["small"]], repeats=repeats, images=128)
    ),
    "probes": lambda repeats: (
        probes.measure(
            repeats=min(repeats, 3), bank=50_000, queries=10_000, width=384, classes=100, fitted=12_669, iterations=100
        )
        | heads.measure(
            repeats=repeats,
            images=64,
            image_size=224,
            classes=1000,
            vit=CONFIGURATIONS["s8-s16"].student,
            blocks=4,
        )
    ),
    "kernels": lambda repeats: kernels.measure(repeats=repeats),
    "startup": lambda repeats: startup.measure(repeats=repeats),
    "engine": lambda repeats: {"toy rows": engine.measure(rows=48, epochs=40, repeats=min(repeats, 3))},
    "search": lambda repeats: {
        "toy size": search.measure(
            experiment="experiments/smoke", trials=20, separate=min(repeats, 3), pipelines=min(repeats, 3)
        )
    },
}
_ONE_THREAD = ("data", "kernels")  # as `runtime.threads` has it; the other parts take what torch takes


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for, print it and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="*", choices=["step", *PARTS, []], help="all when left out")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    options = parser.parse_args(arguments)
    keep_memory()  # as the package's programs do
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}; allowed: 1 or more")
    threads = torch.get_num_threads()
    asked = options.part or ["step", *PARTS]
    for name in dict.fromkeys([*asked, "pair"] if "step" in asked else asked):  # the whole way of a step's images
        print(name, file=sys.stderr, flush=True)
        if name == "step":
            step.main(["--repeats", str(options.repeats)])
            continue
        torch.set_num_threads(1 if name in _ONE_THREAD else threads)  # the part before may have set its own
        found = {"machine": describe(torch.device("cpu")), "measured": PARTS[name](options.repeats)}
        text = comparison_page(name, found)
        print(text)
        write_json(RESULTS / f"{name}.json", found)
        write_text(RESULTS / f"{name}.md", text)


if __name__ == "__main__":
    main()

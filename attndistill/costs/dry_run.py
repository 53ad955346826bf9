"""What a run would cost, without running it: files, parameters, FLOPs, memory, cache, schedule, hours.

Models are the ones that the stages build, on tensors without values: a step of them computes nothing, and torch's own
counter counts its floating-point operations (two for a multiplication and an addition). Nothing is written.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attndistill.config import Config
from attndistill.config.transfer import TRANSFER
from attndistill.costs.training import Estimate, Plan, hours
from attndistill.experiments import Experiment
from attndistill.pipeline import maker_of
from attndistill.stages import Item, Stage
from attndistill.stages.layout import MODELS

__all__ = ["Plan", "dry_run"]

_INDENT = " " * 17
_NOT_COUNTED = "work of the CPU (k-NN, logistic regression, probe curves, pictures, report) not counted"


@dataclass(frozen=True)
class Block:
    """What is printed of a stage: the items that cost the same, what each costs, and whether all it needs is there."""

    stage: str
    items: tuple[str, ...]
    estimate: Estimate
    complete: bool


def dry_run(
    experiment: Experiment, stages: Sequence[tuple[Stage, Item]], overrides: Mapping[str, Any], plan: Plan
) -> int:
    """Print a block for each (stage, item), items of equal cost in one, and the sum of several.

    Returns:
        1 where something from outside (images, a list, a checkpoint) is missing or is another file, else 0.

    Raises:
        ValueError: a configuration that is refused.
    """
    told, alone = plan, len(stages) == 1
    plan = _with_counts(plan, experiment.layout.data)
    if any(stage.report for stage, _ in stages):
        plan = _with_rows(plan, experiment, overrides)
    blocks = []
    for stage, item in stages:
        config, counted = experiment.config(item.name, overrides), plan
        if item.data and item.data not in experiment.layout.shared:
            counted = _counted(told, experiment, config, item, given=alone)
        block = _block(experiment, stage, item, config, counted)
        if alone:
            lines = {**_not_yet(experiment, stage, item), **block.estimate.lines}
            block = replace(block, estimate=Estimate(lines, block.estimate.flops))
        blocks.append(block)
    for block in _alike(blocks):
        _print(block, plan)
    total = sum(block.estimate.flops for block in blocks)
    if not alone and total:
        print(f"sum of these     {hours(total, plan)}; {_NOT_COUNTED}")
    return int(not all(block.complete for block in blocks))


def _counted(plan: Plan, experiment: Experiment, config: Config, item: Item, *, given: bool) -> Plan:
    """Of a further data set: `given` counts are its own, else the prepared data's, else its preset's."""
    nothing = replace(plan, images=None, test_images=None, classes=None)
    plan = _with_counts(plan if given else nothing, experiment.layout.prepared(item.data))
    preset = config.datasets[item.data].preset
    if preset is None:
        return plan
    images, test_images, classes = TRANSFER[preset].counts
    return replace(
        plan,
        images=images if plan.images is None else plan.images,
        test_images=test_images if plan.test_images is None else plan.test_images,
        classes=classes if plan.classes is None else plan.classes,
    )


def _with_counts(plan: Plan, prepared: Path) -> Plan:
    """The prepared data's own counts, unless others were given."""
    if not (prepared / "manifest.json").exists():
        return plan
    from attndistill.data.manifest import read_manifest

    manifest = read_manifest(prepared)
    counts = {name: int(split["count"]) for name, split in manifest["splits"].items()}
    return replace(
        plan,
        images=counts["train"] if plan.images is None else plan.images,
        test_images=counts["test"] if plan.test_images is None else plan.test_images,
        classes=len(manifest["class_names"]) if plan.classes is None else plan.classes,
    )


def _with_rows(plan: Plan, experiment: Experiment, overrides: Mapping[str, Any]) -> Plan:
    """What the report shows."""
    shown = experiment.rows if experiment.file.pictures is None else experiment.file.pictures
    configs = {name: experiment.config(name, overrides) for name in (*MODELS, *shown)}
    return replace(plan, models=len(MODELS) + len(experiment.rows), pictured=configs)


def _block(experiment: Experiment, stage: Stage, item: Item, config: Config, plan: Plan) -> Block:
    estimate = stage.estimated(item, config, plan) if stage.estimate else Estimate({})
    read = [one for one in stage.outside(config, item) if not one.path.startswith("outputs/")]  # what `fetch` makes
    problems = [problem for one in read if (problem := one.problem(experiment.folder))]
    missing = {f"missing {number}": problem for number, problem in enumerate(problems, 1)}
    return Block(stage.name, (item.label,), Estimate({**estimate.lines, **missing}, estimate.flops), not problems)


def _not_yet(experiment: Experiment, stage: Stage, item: Item) -> dict[str, str]:
    """Which inputs of a stage are not there yet, and which command makes them."""
    absent = [path for path in stage.inputs(experiment.layout, item) if not path.exists()]
    return {
        f"not yet {number}": f"{path.relative_to(experiment.folder)}, made by {maker_of(experiment, path)}"
        for number, path in enumerate(absent, 1)
    }


def _alike(blocks: Sequence[Block]) -> list[Block]:
    """Items of one stage that cost the same, together."""
    together: dict[tuple[Any, ...], Block] = {}
    for block in blocks:
        key = (block.stage, *block.estimate.lines.items())
        known = together.get(key)
        together[key] = block if known is None else replace(known, items=(*known.items, *block.items))
    return list(together.values())


def _print(block: Block, plan: Plan) -> None:
    """Nothing is said of a stage that costs nothing worth it, but by its name."""
    first, *others = block.items
    print(f"{block.stage}{'@' + first if first else ''}")
    for name, text in block.estimate.lines.items():
        print(f"  {name:14} {text}")
    if others:
        names = textwrap.wrap(", ".join(others), 110, break_on_hyphens=False)
        print(f"  {'as much each':14} " + f"\n{_INDENT}".join(names))
    if others and block.estimate.flops:
        print(f"  {'together':14} {hours(block.estimate.flops * len(block.items), plan)}")

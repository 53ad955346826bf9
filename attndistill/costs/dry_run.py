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
from attndistill.costs.machine import lasting, measured
from attndistill.costs.training import Estimate, Plan, hours
from attndistill.experiments import Experiment
from attndistill.pipeline import every_stage, maker_of
from attndistill.stages import Item, Stage
from attndistill.stages.layout import MODELS

__all__ = ["Plan", "cost_here", "dry_run"]

_INDENT = " " * 17
_NOT_COUNTED = "work of the CPU (k-NN, logistic regression, probe curves, pictures, report) not counted"
_HERE_NOT_COUNTED = "loading of images, probe curves, pictures and report not counted"


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
    plan, blocks = _blocks(experiment, stages, overrides, plan)
    for block in _alike(blocks):
        _print(block, plan)
    if len(stages) > 1 and any(block.estimate.flops for block in blocks):
        print(f"sum of these     {_sum([block.estimate for block in blocks], plan)}")
    return int(not all(block.complete for block in blocks))


def cost_here(experiment: Experiment, plan: Plan) -> str:
    """How long every stage takes on this machine, measured; with the counts of `plan`, in words."""
    plan, blocks = _blocks(experiment, every_stage(experiment, {}), {}, plan)
    assert plan.machine is not None
    work = sum(plan.machine.seconds(one.estimate.flops, one.estimate.host, one.estimate.models) for one in blocks)
    return f"{lasting(work)} on this machine as it is now; {_HERE_NOT_COUNTED}"


def _blocks(
    experiment: Experiment, stages: Sequence[tuple[Stage, Item]], overrides: Mapping[str, Any], plan: Plan
) -> tuple[Plan, list[Block]]:
    """The plan with what is known here, and a block for each (stage, item)."""
    if plan.tflops is None:
        plan = replace(plan, machine=measured(experiment.config("", overrides)))
    told, alone = plan, len(stages) == 1
    plan = _with_counts(plan, experiment, overrides)
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
            block = replace(block, estimate=replace(block.estimate, lines=lines))
        blocks.append(block)
    return plan, blocks


def _counted(plan: Plan, experiment: Experiment, config: Config, item: Item, *, given: bool) -> Plan:
    """Of a further data set: `given` counts are its own, else the prepared data's, else its preset's."""
    if not given:
        plan = replace(plan, images=None, test_images=None, classes=None)
    preset = config.datasets[item.data].preset
    known = TRANSFER[preset].counts if preset else (None, None, None)
    images, test_images, classes = _prepared(experiment.layout.prepared(item.data)) or known
    return replace(
        plan,
        images=images if plan.images is None else plan.images,
        test_images=test_images if plan.test_images is None else plan.test_images,
        classes=classes if plan.classes is None else plan.classes,
    )


def _prepared(data: Path) -> tuple[int, int, int] | None:
    """Of train, of test, of classes of data that is prepared."""
    if not (data / "manifest.json").exists():
        return None
    from attndistill.data.manifest import read_manifest

    manifest = read_manifest(data)
    train, test = (int(manifest["splits"][name]["count"]) for name in ("train", "test"))
    return train, test, len(manifest["class_names"])


def _sum(estimates: Sequence[Estimate], plan: Plan) -> str:
    """FLOPs, and how long they take; on this machine with the starts of processes."""
    total, machine = sum(one.flops for one in estimates), plan.machine
    if machine is None:
        return f"{hours(total, plan)}; {_NOT_COUNTED}"
    work, starts = sum(machine.seconds(one.flops, one.host, one.models) for one in estimates), len(estimates)
    together = lasting(work + starts * machine.start)
    return (
        f"{total:.2e} FLOPs, {lasting(work)} on this machine as it is now; with {starts} starts of "
        f"{machine.start:.0f} s (dvc repro) {together}; {_HERE_NOT_COUNTED}"
    )


def _with_counts(plan: Plan, experiment: Experiment, overrides: Mapping[str, Any]) -> Plan:
    """The data's own counts, where they are known and no others were given."""
    found = _counts(experiment, overrides)
    if found is None:
        return plan
    images, test_images, classes = found
    return replace(
        plan,
        images=images if plan.images is None else plan.images,
        test_images=test_images if plan.test_images is None else plan.test_images,
        classes=classes if plan.classes is None else plan.classes,
    )


def _counts(experiment: Experiment, overrides: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Of train, of test, of classes: once prepared, and of the embedded digits before that."""
    if prepared := _prepared(experiment.layout.data):
        return prepared
    chosen = experiment.config("", overrides).data.set
    if chosen.name != "digits":
        return None
    from attndistill.data.sources import open_source

    try:
        source = open_source(chosen.name, chosen.options())
    except ValueError:  # such as a class list that is missing, which the stage's own block names
        return None
    return len(source.splits["train"].labels), len(source.splits["test"].labels), len(source.class_names)


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
    return Block(stage.name, (item.label,), replace(estimate, lines={**estimate.lines, **missing}), not problems)


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
        count, one = len(block.items), block.estimate
        print(f"  {'together':14} {hours(one.flops * count, plan, one.host * count, one.models)}")

"""What a run would cost, without running it: files, parameters, FLOPs, memory, cache, schedule, hours.

Models are the ones that the stages build, moved to the meta device: a step of them computes nothing, and torch's own
counter counts its floating-point operations (two for a multiplication and an addition). Nothing is written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.config import Config, Teacher, describe
from attndistill.config.method import Recipe
from attndistill.experiments import Experiment
from attndistill.stages.layout import Layout
from attndistill.stages.table import STAGES, Stage

if TYPE_CHECKING:
    from attndistill.stages.costs import Step

_TRAINED_BYTES = 16  # of a parameter in fp32: weight, gradient and AdamW's two moments
_FROZEN_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """What the estimates rest on.

    Attributes:
        images: of train; None where nobody knows before `prepare`.
        tflops: sustained, 10^12 operations a second.
    """

    images: int | None
    tflops: float


@dataclass(frozen=True)
class Estimate:
    """What is printed of a stage, name -> text, and its FLOPs in all (0 where not estimated)."""

    lines: Mapping[str, str]
    flops: float = 0.0


def dry_run(
    experiment: Experiment, stages: Sequence[tuple[Stage, str]], overrides: Mapping[str, Any], plan: Plan
) -> int:
    """Print a block for each (stage, item), and the sum of several.

    Returns:
        1 where something from outside (images, checkpoint, class list) is missing, else 0.

    Raises:
        ValueError: a configuration that is refused.
    """
    layout, total, complete = Layout(experiment.root, experiment.name), 0.0, True
    for stage, item in stages:
        config = experiment.config(item, overrides)
        estimate = _costs(stage, item, config, _with_images(plan, layout))
        total += estimate.flops
        absent = [path for path in _outside(stage, item, config) if not (experiment.root / path).exists()]
        complete = complete and not absent
        lines = {
            **({} if len(stages) > 1 else _not_yet(stage, layout, item, tuple(experiment.rows))),
            **estimate.lines,
            **{f"missing {number}": f"{path}, which comes from outside" for number, path in enumerate(absent, 1)},
        }
        if lines or len(stages) == 1:
            print(f"{stage.name}{'@' + item if item else ''}")
        for name, text in lines.items():
            print(f"  {name:14} {text}")
    if len(stages) > 1 and total:
        print(f"sum of these     {_hours(total, plan)}; k-NN, logistic regression, pictures and the report not counted")
    return int(not complete)


def _with_images(plan: Plan, layout: Layout) -> Plan:
    """The prepared data's own count, unless another was given."""
    manifest = layout.data / "manifest.json"
    if plan.images is not None or not manifest.exists():
        return plan
    from attndistill.data.store import read_manifest

    return Plan(int(read_manifest(layout.data)["splits"]["train"]["count"]), plan.tflops)


def _not_yet(stage: Stage, layout: Layout, item: str, rows: tuple[str, ...]) -> dict[str, str]:
    """Which inputs of a stage are not there yet, and which stage makes them."""
    makers = {
        path: made.name for made in STAGES.values() for one in made.items(rows) for path in made.outputs(layout, one)
    }
    absent = [path for path in stage.inputs(layout, item) if not path.exists()]
    return {
        f"not yet {number}": f"{path.relative_to(layout.root)}, made by {makers.get(path, 'earlier stages')}"
        for number, path in enumerate(absent, 1)
    }


def _outside(stage: Stage, item: str, config: Config) -> list[Path]:
    """Files that no stage makes."""
    if stage.name == "prepare":
        options = config.data.set.options()
        return [Path(options[name]) for name in ("root", "class_list") if options.get(name)]
    if stage.name == "pretrain" and item == "teacher" and config.teacher.source is not None:
        path = getattr(config.teacher.source, "path", None)
        return [Path(path)] if path else []
    return []


def _costs(stage: Stage, item: str, config: Config, plan: Plan) -> Estimate:
    estimates: dict[str, Callable[[], Estimate]] = {
        "prepare": lambda: Estimate({"data": _data(config), "train images": _count(plan.images)}),
        "pretrain": lambda: _pretrain(item, config, plan),
        "targets": lambda: _targets(config, plan),
        "distill": lambda: _distill(config, plan),
        "probe": lambda: _linear_probe(item, config, plan),
    }
    return estimates.get(stage.name, lambda: Estimate({}))()


def _pretrain(item: str, config: Config, plan: Plan) -> Estimate:
    sizes = config.teacher.sizes() if item == "teacher" else config.student.plain()
    if item == "teacher" and config.teacher.source is not None:
        return Estimate({"teacher": _model(config, sizes), "source": _source(config.teacher)})
    from attndistill.stages.costs import masked_autoencoding_step

    seeds = 1 if item == "teacher" else len(config.seeds)
    trained = _training(masked_autoencoding_step(config, sizes), config, config.pretrain.recipe, plan, seeds)
    return Estimate({"encoder": _model(config, sizes), **trained.lines}, trained.flops)


def _targets(config: Config, plan: Plan) -> Estimate:
    from attndistill.stages.costs import cache_bytes, teacher_flops

    if not config.targets.cache:
        return Estimate({"cache": "off: the teacher runs inside the step"})
    each, views = cache_bytes(config), config.targets.views
    lines = {"cache": f"{each:,} bytes for one view of one image, V = {views}"}
    if plan.images is None:
        return Estimate(lines)
    flops = teacher_flops(config) * views * plan.images
    return Estimate({**lines, "in all": f"{_scaled(each * views * plan.images)}B; {_hours(flops, plan)}"}, flops)


def _distill(config: Config, plan: Plan) -> Estimate:
    from attndistill.stages.costs import distillation_step, projector_parameters

    trained = _training(distillation_step(config), config, config.distill.recipe, plan, len(config.seeds))
    cached = "answers cached" if config.targets.cache else "runs inside the step"
    lines = {
        "teacher": f"{_model(config, config.teacher.sizes())}; {cached}",
        "student": _model(config, config.student.plain()),
        "P": f"{config.distill.projector_depth} layers, {projector_parameters(config):,} parameters",
    }
    return Estimate({**lines, **trained.lines}, trained.flops)


def _linear_probe(item: str, config: Config, plan: Plan) -> Estimate:
    """Of the linear probe; the other probes read each image once."""
    if config.probe.linear is None:
        return Estimate({})
    from attndistill.stages.costs import linear_probe_step

    sizes = config.teacher.sizes() if item == "teacher" else config.student.plain()
    seeds = 1 if item == "teacher" else len(config.seeds)
    trained = _training(linear_probe_step(config, sizes), config, config.probe.linear.recipe, plan, seeds)
    lines = {("linear probe" if name == "step" else name): text for name, text in trained.lines.items()}
    return Estimate(lines, trained.flops)


def _training(step: "Step", config: Config, recipe: Recipe, plan: Plan, seeds: int) -> Estimate:
    """A recipe's schedule, and what it costs for every seed."""
    micro = config.runtime.micro_batch_size or recipe.batch_size
    weights = step.trained * _TRAINED_BYTES + step.frozen * _FROZEN_BYTES
    activations = step.activations * (2 if recipe.precision == "bf16" else 4) // 4 * micro
    kept = f" + at most {_scaled(activations)}B activations" if step.activations else ""
    lines = {
        "step": f"{_scaled(step.flops)}FLOPs an image, {_scaled(step.flops * recipe.batch_size)}FLOPs a batch of "
        f"{recipe.batch_size:,}",
        "memory": f"{_scaled(weights)}B weights and optimizer{kept} ({micro:,} images at once, {recipe.precision})",
        "learning rate": f"{recipe.base_learning_rate:g} x {recipe.batch_size:,} / 256 = "
        f"{recipe.peak_learning_rate:.4g} after {recipe.warmup_epochs} epochs, cosine to 0 at epoch {recipe.epochs:,}",
    }
    if plan.images is None:
        return Estimate({**lines, "in all": _count(None)})
    from attndistill.stages.runs import make_schedule

    steps = make_schedule(recipe, config.runtime, plan.images, 0, 1, 0).steps
    each = f" for each of {seeds} seeds" if seeds > 1 else ""
    flops = float(step.flops) * recipe.batch_size * steps * seeds
    return Estimate({**lines, "in all": f"{steps:,} steps{each}, {_hours(flops, plan)}"}, flops)


def _hours(flops: float, plan: Plan) -> str:
    seconds = flops / (plan.tflops * 1e12)
    time = f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.1f} seconds"
    return f"{flops:.2e} FLOPs, estimated {time} at {plan.tflops:g} TFLOP/s sustained"


def _scaled(amount: float) -> str:
    """1.5e9 -> '1.5 G'."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if amount >= 10**power:
            return f"{amount / 10**power:,.1f} {letter}"
    return f"{amount:,.0f} "


def _model(config: Config, sizes: Mapping[str, Any]) -> str:
    return describe(config.views.image_size, sizes)


def _source(teacher: Teacher) -> str:
    source = teacher.source
    assert source is not None
    return f"{source.name}: {getattr(source, 'path', None) or source.timm_name}"


def _data(config: Config) -> str:
    options = config.data.set.options()
    told = ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)
    return f"{config.data.set.name} ({told})"


def _count(images: int | None) -> str:
    return "not known before prepare (or give --images)" if images is None else f"{images:,}"

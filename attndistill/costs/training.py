"""What a stage that trains would cost, in words: memory, FLOPs, schedule, hours. `models.py` counts one image's part.

Memory is of weights, optimizer and what images keep; the allocator's own waste comes on top.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from attndistill.config import Config
from attndistill.costs.machine import Machine, lasting
from attndistill.costs.models import (
    Reading,
    Step,
    cache_bytes,
    distillation_step,
    masked_autoencoding_step,
    projector_parameters,
    teacher_reading,
)
from attndistill.models.sizes import describe
from attndistill.runs import Execution, images_shown, make_schedule
from attndistill.stages.declaration import Item
from attndistill.training.loop import Plan as Loop
from attndistill.training.optimizers import PER_STEP, RateCurve
from attndistill.training.recipe import Recipe

_TRAINED_BYTES = 16  # of a parameter in fp32: weight, gradient and AdamW's two moments
_FROZEN_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """What the estimates rest on. Counts are None where nobody knows them before `prepare`.

    Attributes:
        images: of train.
        test_images: of test.
        classes: of both.
        tflops: sustained, 10^12 operations a second; None: those of this machine, which is measured.
        machine: as it was measured.
        models: lines of the report's table.
        pictured: model -> configuration, of those whose maps the report shows.
    """

    images: int | None
    test_images: int | None
    classes: int | None
    tflops: float | None
    machine: Machine | None = None
    models: int = 0
    pictured: Mapping[str, Config] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """What is printed of a stage, name -> text; its FLOPs in all on device and host (0: not estimated); its models."""

    lines: Mapping[str, str]
    flops: float = 0.0
    host: float = 0.0
    models: int = 1


def prepare(item: Item, config: Config, plan: Plan) -> Estimate:
    """Of making the data's files: what they are."""
    chosen = config.data_of(item.data).set
    said = ", ".join(f"{name} {value}" for name, value in chosen.options().items() if value is not None)
    counts = {
        "train images": known(plan.images, "--images"),
        "test images": known(plan.test_images, "--test-images"),
        "classes": known(plan.classes, "--classes"),
    }
    return Estimate({"data": f"{chosen.name} ({said})", **counts})


def pretrain(item: Item, config: Config, plan: Plan) -> Estimate:
    """Of masked autoencoding, or of taking a teacher from elsewhere."""
    sizes, source = sizes_of(item, config), config.teacher.source
    if item.name == "teacher" and source is not None:
        place = getattr(source, "path", None) or source.timm_name
        lines = {"teacher": _model(config, sizes), "source": f"{source.name}: {place}"}
        return Estimate({**lines, **(_self_check(config, plan) if config.teacher.check == "on" else {})})
    step, recipe = masked_autoencoding_step(config, sizes), config.pretrain.recipe
    trained = estimate_training(step.flops, recipe, config, plan, item)
    lines = {"encoder": _model(config, sizes), "memory": training_memory(step, recipe, config)}
    return replace(trained, lines={**lines, **trained.lines})


def _self_check(config: Config, plan: Plan) -> dict[str, str]:
    """Of the k-NN that a teacher from elsewhere must pass."""
    teacher = teacher_reading(config)
    memory = reading_memory(teacher, read_at_once(teacher, config, plan))
    return {"self-check": f"{config.teacher.check_images:,} images, {flops_an_image(teacher.flops)}; {memory}"}


def targets(item: Item, config: Config, plan: Plan) -> Estimate:
    """Of the cache of the teacher's answers; where it is off, of what it would take."""
    each, views, reading = cache_bytes(config), config.targets.views, teacher_reading(config)
    size = f"{each:,} bytes for one view of one image{config.views.told()}"
    size += f", {scaled(each * views * plan.images)}B in all" if plan.images is not None else ""
    if not config.targets.cache:
        return Estimate({"cache": f"cache off; V = {views:,} would take {size}"})
    memory = reading_memory(reading, read_at_once(reading, config, plan))
    precision = "" if config.targets.precision == "fp32" else f", {config.targets.precision}"
    teacher = f"{flops_an_image(reading.flops)}{precision}"
    lines = {"cache": f"V = {views:,} takes {size}", "teacher": teacher, "memory": memory}
    if plan.images is None:
        return Estimate({**lines, "in all": known(None, "--images")})
    flops = float(reading.flops) * views * plan.images
    return Estimate({**lines, "in all": hours(flops, plan)}, flops)


def distill(item: Item, config: Config, plan: Plan) -> Estimate:
    """Of a row: the student, its losses, and the teacher where it runs inside the step."""
    step, recipe = distillation_step(config), config.distill.recipe
    live = None if config.targets.cache else teacher_reading(config)
    shown = None if plan.images is None else images_shown(plan.images, config.distill.data_fraction)
    flops = step.flops + (live.flops if live else 0)
    trained = estimate_training(flops, recipe, config, replace(plan, images=shown), item)
    answers = "answers cached" if live is None else "runs inside the step"
    lines = {
        "teacher": f"{_model(config, config.teacher.sizes())}; {answers}",
        "student": _model(config, config.student.plain()),
        "P": f"{projector_parameters(config):,} parameters, depth {config.distill.projector_depth}",
        "memory": training_memory(step, recipe, config),
    }
    if live is not None:
        memory = reading_memory(live, micro_batch(recipe, config))
        lines["live teacher"] = f"{flops_an_image(live.flops)} of the step's; {memory}, before the student's turn"
    return replace(trained, lines={**lines, **trained.lines})


def estimate_training(
    flops: int, recipe: Recipe, config: Config, plan: Plan, item: Item, curve: RateCurve = PER_STEP
) -> Estimate:
    """A recipe's step of so many FLOPs an image, its learning rates, and the whole for every seed."""
    batch, base, peak = recipe.batch_size, recipe.base_learning_rate, recipe.peak_learning_rate
    lines = {
        "step": f"{flops_an_image(flops)}, {scaled(flops * batch)}FLOPs a batch of {batch:,}",
        "learning rate": f"{base:g} x {batch:,} / 256 = {peak:.4g} at its peak",
    }
    warm = f"{recipe.warmup_epochs} of {recipe.epochs:,} epochs warm up, then half a cosine to {curve.lowest:g}"
    if plan.images is None:
        return Estimate({**lines, "schedule": warm, "in all": known(None, "--images")})
    schedule = make_schedule(recipe, _execution(config), plan.images, 0, 1, 0)
    warmup, steps = recipe.warmup_epochs * schedule.steps_per_epoch, schedule.steps
    rate_of = Loop(steps, schedule.steps_per_epoch, 1, peak, warmup, 0.0, curve=curve).learning_rate
    first, last = (rate_of(step) for step in (0, steps - 1))
    lines["schedule"] = f"{warmup:,} of {steps:,} steps ({warm}); first rate {first:.3g}, last {last:.3g}"
    seeds = seeds_of(item, config)
    each = f" for each of {seeds} seeds" if seeds > 1 else ""
    total = float(flops) * batch * steps * seeds
    lines["in all"] = f"{steps:,} steps{each}, {hours(total, plan, models=seeds)}"
    return Estimate(lines, total, models=seeds)


def training_memory(step: Step, recipe: Recipe, config: Config) -> str:
    """Of what is trained, one process."""
    images = micro_batch(recipe, config)
    parts = [f"{scaled(step.trained * _TRAINED_BYTES)}B weights and optimizer"]
    parts += [f"{scaled(step.queue)}B queue"] if step.queue else []
    parts += [f"at most {scaled(step.activations * images)}B activations"]
    return f"{' + '.join(parts)} ({images:,} images at once, {recipe.precision})"


def reading_memory(reading: Reading, images: int) -> str:
    """Of a frozen backbone that reads so many images at once."""
    weights, alive = reading.parameters * _FROZEN_BYTES, reading.largest * images
    return f"{scaled(weights)}B weights + at most {scaled(alive)}B while {images:,} images are read"


def read_at_once(reading: Reading, config: Config, plan: Plan) -> int:
    """Images that a frozen backbone reads at once where nothing is trained; on this machine's CPU it may be fewer."""
    here = plan.machine is not None and not plan.machine.cuda
    return min(config.runtime.evaluation_batch_size, reading.on_cpu if here else sys.maxsize)


def micro_batch(recipe: Recipe, config: Config) -> int:
    """Images that one process takes at once."""
    return min(config.runtime.micro_batch_size or recipe.batch_size, recipe.batch_size)


def sizes_of(item: Item, config: Config) -> dict[str, Any]:
    """Of the model that an item names."""
    return config.teacher.sizes() if item.name == "teacher" else config.student.plain()


def seeds_of(item: Item, config: Config) -> int:
    """How many models an item is."""
    return 1 if item.name == "teacher" else len(config.seeds)


def _execution(config: Config) -> Execution:
    """As far as a schedule depends on it."""
    return Execution(torch.device("cpu"), micro_batch_size=config.runtime.micro_batch_size)


def hours(flops: float, plan: Plan, host: float = 0.0, models: int = 1) -> str:
    """How long so many operations take, of which `host` on the CPU is counted for this machine alone."""
    if plan.machine is not None:
        return f"{flops:.2e} FLOPs, {lasting(plan.machine.seconds(flops, host, models))} on this machine"
    assert plan.tflops is not None
    seconds = flops / (plan.tflops * 1e12)
    time = f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.1f} seconds"
    return f"{flops:.2e} FLOPs, estimated {time} at {plan.tflops:g} TFLOP/s sustained"


def flops_an_image(flops: float) -> str:
    """In words."""
    return f"{scaled(flops)}FLOPs an image"


def scaled(amount: float) -> str:
    """1.5e9 -> '1.5 G'."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if amount >= 10**power:
            return f"{amount / 10**power:,.1f} {letter}"
    return f"{amount:,.0f} "


def known(amount: int | None, option: str) -> str:
    """A count, or how it becomes known."""
    return f"not known before prepare (or give {option})" if amount is None else f"{amount:,}"


def _model(config: Config, sizes: Mapping[str, Any]) -> str:
    return describe(config.views.image_size, sizes)

"""What it would cost to judge models and to show where they look, in words: probes, attention, the report.

Backbones run on the device; k-NN, logistic regression, pictures and the report are work of the CPU, which the hours at
so many TFLOP/s say nothing about: their FLOPs and bytes are told apart. D is the width of a feature.
"""

from dataclasses import replace
from typing import Any

from attndistill.config import Config
from attndistill.costs.models import Reading, backbone_reading, fine_tuning_step, projected_width
from attndistill.costs.training import (
    Estimate,
    Plan,
    estimate_training,
    flops_an_image,
    hours,
    known,
    micro_batch,
    read_at_once,
    reading_memory,
    scaled,
    seeds_of,
    sizes_of,
    training_memory,
)
from attndistill.evaluations import Evaluation, evaluations
from attndistill.evaluations.finetuning import PUBLISHED
from attndistill.stages.declaration import Item
from attndistill.stages.layout import MODELS
from attndistill.training.optimizers import PER_EPOCH, PER_STEP

_FLOAT32, _FLOAT64 = 4, 8  # bytes


def probe(item: Item, config: Config, plan: Plan) -> Estimate:
    """Of k-NN and logistic regression, and of the linear probe where one is asked for."""
    config = _as_judged(config, item)
    reading = backbone_reading(config, sizes_of(item, config))
    lines = {
        "features": flops_an_image(reading.flops),
        "memory": reading_memory(reading, read_at_once(reading, config, plan)),
    }
    flops, host, seeds = 0.0, 0.0, seeds_of(item, config)
    if plan.images is None or plan.test_images is None:
        lines["in all"] = _unknown(plan)
    else:
        flops = float(reading.flops) * (plan.images + plan.test_images) * seeds
        told, each = _on_the_cpu(_width(item, config), config, plan.images, plan.test_images, plan)
        lines, host = {**lines, **told}, float(each) * seeds
        took = hours(flops, plan, host, seeds)
        lines["in all"] = f"{plan.images + plan.test_images:,} images{_each(item, config)}, {took}"
    for name, options in config.probe:
        evaluation = evaluations().get(name) if options is not None else None
        if evaluation and not (evaluation.on == "pair" and item.name in MODELS):  # those learned of no teacher
            trained = _trained(evaluation, reading, options, item, config, plan)
            lines, flops = {**lines, **trained.lines}, flops + trained.flops
    return Estimate(lines, flops, host, seeds)


def _as_judged(config: Config, item: Item) -> Config:
    """The configuration with the data set's own views, data and probes in the place of the experiment's."""
    changes = {"views": config.views_of(item.data), "data": config.data_of(item.data)}
    return config.judging(item.data).model_copy(update=changes)


def _width(item: Item, config: Config) -> int:
    """D: of the class token, or of what the layer of P that is judged makes of it."""
    if item.name in MODELS or not config.probe.projector_layer:
        return int(sizes_of(item, config)["embed_dim"])
    return projected_width(config)


def _on_the_cpu(width: int, config: Config, images: int, test_images: int, plan: Plan) -> tuple[dict[str, str], int]:
    """k-NN's products and votes, the regression's passes over the features, as far as turned on, and their FLOPs."""
    labelled = round(images * (config.probe.labels.fraction or 1))
    held_out = round(labelled * config.data.validation_fraction)
    bank, knn, regression = labelled - held_out, config.probe.knn, config.probe.logistic
    lines, most, flops = {}, 0, 0
    if knn is not None:
        flops = 2 * width * (held_out * bank + test_images * labelled)
        lines["k-NN"] = f"{scaled(flops)}FLOPs on the CPU, a seed"
    if plan.classes is None:
        return {**lines, "regression": f"classes {known(None, '--classes')}"}, flops
    row = plan.classes * _FLOAT64  # of votes or of probabilities
    if knn is not None:
        most = (held_out + test_images) * row * len(knn.neighbours)
    if regression is not None:
        values = len(regression.strengths)
        passes = regression.max_iterations * values * (labelled + (bank if values > 1 else 0))
        fitting = 4 * width * plan.classes * passes
        lines["regression"], flops = f"at most {scaled(fitting)}FLOPs on the CPU, a seed", flops + fitting
        most = max(most, 2 * labelled * width * _FLOAT64 + max(held_out, test_images) * row * values)
    features = (images + test_images) * width * _FLOAT32
    told = f"{scaled(features)}B features + at most {scaled(most)}B votes or probabilities"
    return {**lines, "host memory": told}, flops


def _trained(
    evaluation: Evaluation, reading: Reading, options: Any, item: Item, config: Config, plan: Plan
) -> Estimate:
    """Of one that trains by a recipe: heads on frozen features of random views, whose part is under a thousandth of the
    backbone's, or the backbone too, once for each rate. One on features that are there costs no reading of images."""
    name, recipe = evaluation.name.replace("_", " "), getattr(options, "recipe", None)
    if recipe is None:
        return Estimate({} if evaluation.name in ("knn", "logistic") else {name: "on those features; not counted"})
    labelled = plan.images
    if labelled is not None and config.probe.labels.fraction is not None:
        labelled = round(labelled * config.probe.labels.fraction)
    plan = replace(plan, images=labelled)
    if evaluation.trains == "backbone":
        trained, memory = _fine_tuned(reading, options, item, config, plan)
    else:
        curve = PER_EPOCH if evaluation.name in ("linear_dino", "linear_ibot") else PER_STEP
        trained = estimate_training(reading.flops, recipe, config, plan, item, curve)
        if views := getattr(options, "views", None):
            read = trained.flops * min(1.0, views / recipe.epochs)
            said = {"in all": f"{views} views of an image stored and replayed, {hours(read, plan)}"} if read else {}
            trained = replace(trained, lines={**trained.lines, **said}, flops=read)
        memory = reading_memory(reading, micro_batch(recipe, config))
    names = {
        "step": f"{name} probe",
        "learning rate": f"{name} rate",
        "schedule": f"{name} steps",
        "in all": f"{name} in all",
    }
    return replace(
        trained, lines={f"{name} memory": memory, **{names[key]: text for key, text in trained.lines.items()}}
    )


def _fine_tuned(reading: Reading, options: Any, item: Item, config: Config, plan: Plan) -> tuple[Estimate, str]:
    """The runs of all rates, with what they are judged on after every epoch that counts; and the memory of one."""
    recipe, rates = options.recipe, len(options.rates)
    published = PUBLISHED[options.protocol]
    step = fine_tuning_step(config, sizes_of(item, config), published.pooled, plan.classes or 1, recipe.precision)
    held_out = 0.0 if options.choose == "test" else config.data_of(item.data).validation_fraction
    judged = None if plan.images is None else round(plan.images * held_out)
    learned = None if plan.images is None or judged is None else plan.images - judged
    one = estimate_training(step.flops, recipe, config, replace(plan, images=learned), item, published.curve)
    flops = one.flops * rates
    lines = dict(one.lines)
    if judged is not None and plan.test_images is not None:
        times = -(-recipe.epochs // options.evaluate_every)
        flops += float(reading.flops) * (judged + plan.test_images) * times * rates * seeds_of(item, config)
        lines["in all"] = (
            f"{rates} rates{_each(item, config)}, judged {times:,} times each, {hours(flops, plan, models=one.models)}"
        )
    return Estimate(lines, flops, models=one.models), training_memory(step, recipe, config)


def attention(item: Item, config: Config, plan: Plan) -> Estimate:
    """Of a model's maps over the test split, every seed's, and of the pictures. The teacher's are read once."""
    reading = backbone_reading(config, sizes_of(item, config))
    seeds = seeds_of(item, config)
    several = f", {seeds} students" if seeds > 1 else ""
    total = reading.flops * seeds
    lines = {
        "maps": f"{flops_an_image(total)}{several}",
        "memory": reading_memory(reading, read_at_once(reading, config, plan)),
    }
    if plan.test_images is None:
        return Estimate({**lines, "in all": _unknown(plan)})
    flops = float(total) * plan.test_images
    pictured = _pictured(config, plan)
    kept = _row_of_maps(config.teacher.sizes(), config)
    if item.name != "teacher":  # the first seed's are pictured; those of the others come and go
        kept += _row_of_maps(config.student.plain(), config) * min(2, len(config.seeds))
    pictures = "pictures not counted" if pictured is None else f"{scaled(pictured * _pixels(config))}B pictures"
    lines["host memory"] = f"{scaled(kept * plan.test_images)}B maps + {pictures}"
    lines["in all"] = f"{plan.test_images:,} images, {hours(flops, plan, models=seeds)}"
    return Estimate(lines, flops, models=seeds)


def report(item: Item, config: Config, plan: Plan) -> Estimate:
    """Of tables, charts and the page: files alone are read. The seconds of `runtime.speeds` are not counted."""
    lines = {"reads": f"results of {plan.models} models, maps of {len(plan.pictured)}; no FLOPs, no device"}
    sizes = []
    for name, config in plan.pictured.items():
        shown = _pictured(config, plan)
        if shown is None:
            return Estimate({**lines, "host memory": _unknown(plan)})
        shapes = [config.teacher.sizes()] + ([config.student.plain()] if name != "teacher" else [])
        maps = sum(_row_of_maps(shape, config) for shape in shapes)
        sizes.append(shown * (maps + _pixels(config) // _FLOAT32))  # pixels are stored as bytes
    return Estimate({**lines, "host memory": f"{scaled(sum(sizes))}B maps and pictures"})


def _pictured(config: Config, plan: Plan) -> int | None:
    """Test images that get pictures; None where that is not known."""
    each, featured = config.attention.images_per_class, len(config.attention.images or range(6))
    if each is None:
        return plan.test_images
    if plan.classes is None or plan.test_images is None:
        return None
    return min(plan.test_images, featured + each * plan.classes)


def _row_of_maps(sizes: dict[str, int], config: Config) -> int:
    """Bytes of one image's maps: every head's and the aggregated one."""
    patches = (config.views.image_size // sizes["patch_size"]) ** 2
    return (sizes["num_heads"] + 1) * (1 + patches) * _FLOAT32


def _pixels(config: Config) -> int:
    """Bytes of one picture in fp32."""
    return 3 * config.views.image_size**2 * _FLOAT32


def _each(item: Item, config: Config) -> str:
    seeds = seeds_of(item, config)
    return f" for each of {seeds} seeds" if seeds > 1 else ""


def _unknown(plan: Plan) -> str:
    counts = {"--images": plan.images, "--test-images": plan.test_images, "--classes": plan.classes}
    return known(None, ", ".join(option for option, amount in counts.items() if amount is None))

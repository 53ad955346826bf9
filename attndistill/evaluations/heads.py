"""Linear probes as DINO, iBOT and DINOv2 train them: one head, or many of which one is chosen, all in one pass.

Every head sees the same random views of train. Where there is more than one, the part of train for hyper-parameters is
held out and chooses it. The authors publish the best head *on test*: `choose: test` does so, under a protocol name of
its own. A rate is times the recipe's: `base_learning_rate` 1.0 makes `rates` the published numbers, for 256 images.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from attndistill.core.randomness import derived_seed
from attndistill.data.store import ChosenImages
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import ProbeResult
from attndistill.evaluations.judged import Judged, protocol_of
from attndistill.runs import train
from attndistill.tasks.linear_heads import Feature, LinearHeads
from attndistill.training.optimizers import PER_EPOCH, PER_STEP, RateCurve
from attndistill.training.recipe import Recipe

IBOT_RATES = [float(f"{digit}e{power}") for power in range(-4, 1) for digit in range(1, 10)]
DINOV2_RATES = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]


@dataclass(frozen=True)
class _Heads:
    """What is trained: each feature is judged at each rate.

    Attributes:
        evaluation, protocol: names.
        features, rates: of the heads.
        smallest_crop: least share of an image that a training view shows.
        choose: on what a head is chosen.
        curve: of the learning rate.
    """

    evaluation: str
    protocol: str
    features: list[Feature]
    rates: list[float]
    smallest_crop: float
    choose: str = "validation"
    curve: RateCurve = PER_EPOCH


@EVALUATIONS.register("linear_dino", title="Linear (DINO)", on="model")
def linear_dino(
    judged: Judged,
    *,
    blocks: Annotated[int, Field(gt=0)] = 4,
    patch_mean: bool = False,
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.08,
    recipe: Recipe,
) -> ProbeResult:
    """DINO's linear probe: one head, so nothing is chosen or held out. ViT-B: the last block with the patch mean.

    Raises:
        ValueError: more blocks than there are, or a class without a training image.
    """
    protocol = protocol_of("linear_dino", "linear/dino-v1", {"smallest_crop": smallest_crop})
    return _judge(judged, _Heads("linear_dino", protocol, [Feature(blocks, patch_mean)], [1.0], smallest_crop), recipe)


@EVALUATIONS.register("linear_ibot", title="Linear (iBOT, many rates)", on="model")
def linear_ibot(
    judged: Judged,
    *,
    blocks: Annotated[int, Field(gt=0)] = 4,
    patch_mean: bool = False,
    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None,
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.08,
    choose: Literal["validation", "test"] = "validation",
    recipe: Recipe,
) -> ProbeResult:
    """iBOT's linear probe: 45 rates (null) on one feature. ViT-B: last block with patch mean. Raises as above."""
    protocol = protocol_of("linear_ibot", _named("ibot", choose), {"rates": rates, "smallest_crop": smallest_crop})
    features = [Feature(blocks, patch_mean)]
    return _judge(judged, _Heads("linear_ibot", protocol, features, rates or IBOT_RATES, smallest_crop, choose), recipe)


@EVALUATIONS.register("linear_dinov2", title="Linear (DINOv2, many heads)", on="model")
def linear_dinov2(
    judged: Judged,
    *,
    blocks: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = [1, 4],  # noqa: B006
    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None,
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.08,
    choose: Literal["validation", "test"] = "validation",
    recipe: Recipe,
) -> ProbeResult:
    """DINOv2's linear probe: 13 rates (null) on each of 4 features, 52 heads. Raises as above."""
    given = {"blocks": blocks, "rates": rates, "smallest_crop": smallest_crop}
    protocol = protocol_of("linear_dinov2", _named("dinov2", choose), given)
    features = [Feature(last, patch_mean) for last in blocks for patch_mean in (False, True)]
    heads = _Heads("linear_dinov2", protocol, features, rates or DINOV2_RATES, smallest_crop, choose, PER_STEP)
    return _judge(judged, heads, recipe)


def _named(authors: str, choose: str) -> str:
    return f"linear/{authors}{'-best-on-test' if choose == 'test' else ''}-v1"


def _judge(judged: Judged, heads: _Heads, recipe: Recipe) -> ProbeResult:
    recipe = Recipe.model_validate(recipe)
    _check_depth(judged, heads)
    task = LinearHeads(
        judged.backbone,
        judged.classes,
        derived_seed(judged.seed, "linear heads"),
        features=heads.features,
        rates=heads.rates,
    )
    alone = len(task.heads) == 1
    held_out = alone or heads.choose == "test"
    learned, choosing = (judged.kept, None) if held_out else judged.parts
    judged.check_classes(learned)
    train(
        task,
        recipe,
        ChosenImages(judged.train, learned),
        replace(judged.views, scale=(heads.smallest_crop, 1.0)),
        judged.checkpoint({**judged.inputs, "evaluation": heads.evaluation}),
        judged.execution_of(heads.evaluation),
        seed=judged.seed,
        curve=heads.curve,
    )
    task.eval()
    top1, top5 = judged.accuracies(task.logits, judged.test)
    chosen_by = top1 if choosing is None else judged.accuracies(task.logits, judged.train, choosing)[0]
    best = int(chosen_by.argmax())  # the lower rate of equals
    feature, rate = task.heads[best]
    of = "" if len(heads.features) > 1 else f" on {feature}"
    protocol = f"{heads.protocol}{of}, {recipe.optimizer.name}, {recipe.epochs} epochs"
    chosen = {"rate": rate, "blocks": feature.blocks, "patch_mean": int(feature.patch_mean)}
    sweep = {f"{feature}, rate {rate:g}": float(top1[place]) for place, (feature, rate) in enumerate(task.heads)}
    if alone:
        chosen, sweep = {}, {}
    return ProbeResult(protocol, float(top1[best]), float(top5[best]), chosen, sweep)


def _check_depth(judged: Judged, heads: _Heads) -> None:
    asked, depth = max(feature.blocks for feature in heads.features), len(judged.backbone.blocks)
    if asked > depth:
        raise ValueError(f"probe.{heads.evaluation}.blocks {asked}; this model has {depth}")

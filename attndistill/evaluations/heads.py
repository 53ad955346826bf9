"""Linear probes as DINO, iBOT and DINOv2 train them: one head, or many of which one is chosen, all in one pass.

Every head sees the same random views of train; with `views` V, that many are read once and replayed. Where there is
more than one head, the part of train for hyper-parameters is held out and chooses it. The authors publish the best head
*on test*: `choose: test` does so, under a protocol name of its own. A rate is times the recipe's: `base_learning_rate`
1.0 makes `rates` the published numbers, for 256 images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from attndistill.core.randomness import derived_seed
from attndistill.data.loading import Batch
from attndistill.data.store import ChosenImages, ImageSet
from attndistill.data.views import ViewRecipe
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import ProbeResult
from attndistill.evaluations.judged import Judged, protocol_of
from attndistill.evaluations.stored_views import StoredViews, Unseen
from attndistill.runs import train
from attndistill.tasks.linear_heads import Feature, LinearHeads
from attndistill.training.optimizers import PER_EPOCH, PER_STEP, RateCurve
from attndistill.training.recipe import Recipe

IBOT_RATES = [float(f"{digit}e{power}") for power in range(-4, 1) for digit in range(1, 10)]
_BASE = 768  # width of ViT-B
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
        views: V random views of an image that are stored and replayed; None: a new one in every epoch.
        by_size: whether the feature is the one that the protocol has for the model's size.
    """

    evaluation: str
    protocol: str
    features: list[Feature]
    rates: list[float]
    smallest_crop: float
    choose: str = "validation"
    curve: RateCurve = PER_EPOCH
    views: int | None = None
    by_size: bool = False


@EVALUATIONS.register("linear_dino", title="Linear (DINO)", on="model")
def linear_dino(
    judged: Judged,
    *,
    blocks: Annotated[int, Field(gt=0)] | None = None,
    patch_mean: bool | None = None,
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.08,
    views: Annotated[int, Field(gt=0)] | None = None,
    recipe: Recipe,
) -> ProbeResult:
    """DINO's linear probe: one head, so nothing is chosen or held out.

    The feature is that of the model's size where `blocks` and `patch_mean` are null: the class tokens of the last four
    blocks; from B on, that of the last block and the mean of its patches.

    Raises:
        ValueError: more blocks than there are, or a class without a training image.
    """
    protocol = protocol_of("linear_dino", "linear/dino-v1", {"smallest_crop": smallest_crop, "views": views})
    features, by_size = _feature(judged, blocks, patch_mean)
    heads = _Heads("linear_dino", protocol, features, [1.0], smallest_crop, views=views, by_size=by_size)
    return _judge(judged, heads, recipe)


@EVALUATIONS.register("linear_ibot", title="Linear (iBOT, many rates)", on="model")
def linear_ibot(
    judged: Judged,
    *,
    blocks: Annotated[int, Field(gt=0)] | None = None,
    patch_mean: bool | None = None,
    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None,
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.08,
    views: Annotated[int, Field(gt=0)] | None = None,
    choose: Literal["validation", "test"] = "validation",
    recipe: Recipe,
) -> ProbeResult:
    """iBOT's linear probe: 45 rates (null) on one feature, as above. Raises as above."""
    given = {"rates": rates, "smallest_crop": smallest_crop, "views": views}
    protocol = protocol_of("linear_ibot", _named("ibot", choose), given)
    features, by_size = _feature(judged, blocks, patch_mean)
    of: Any = {"choose": choose, "views": views, "by_size": by_size}
    return _judge(judged, _Heads("linear_ibot", protocol, features, rates or IBOT_RATES, smallest_crop, **of), recipe)


@EVALUATIONS.register("linear_dinov2", title="Linear (DINOv2, many heads)", on="model")
def linear_dinov2(
    judged: Judged,
    *,
    blocks: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = [1, 4],  # noqa: B006
    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None,
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.08,
    views: Annotated[int, Field(gt=0)] | None = None,
    choose: Literal["validation", "test"] = "validation",
    recipe: Recipe,
) -> ProbeResult:
    """DINOv2's linear probe: 13 rates (null) on each of 4 features, 52 heads. Raises as above."""
    given = {"blocks": blocks, "rates": rates, "smallest_crop": smallest_crop, "views": views}
    protocol = protocol_of("linear_dinov2", _named("dinov2", choose), given)
    features = [Feature(last, patch_mean) for last in blocks for patch_mean in (False, True)]
    of: Any = {"choose": choose, "curve": PER_STEP, "views": views}
    heads = _Heads("linear_dinov2", protocol, features, rates or DINOV2_RATES, smallest_crop, **of)
    return _judge(judged, heads, recipe)


def _feature(judged: Judged, blocks: int | None, patch_mean: bool | None) -> tuple[list[Feature], bool]:
    """What heads judge, and whether it is by the model's size."""
    if blocks is None and patch_mean is None:
        large = int(judged.backbone.embed_dim) >= _BASE
        return [Feature(1, True) if large else Feature(4, False)], True
    return [Feature(4 if blocks is None else blocks, bool(patch_mean))], False


def _named(authors: str, choose: str) -> str:
    return f"linear/{authors}{'-best-on-test' if choose == 'test' else ''}-v1"


def _judge(judged: Judged, heads: _Heads, recipe: Recipe) -> ProbeResult:
    recipe = Recipe.model_validate(recipe)
    _check_depth(judged, heads)
    alone = len(heads.features) * len(heads.rates) == 1
    learned, choosing = (judged.kept, None) if alone or heads.choose == "test" else judged.parts
    judged.check_classes(learned)
    views = replace(judged.views, scale=(heads.smallest_crop, 1.0))
    images, stored = _images(judged, heads, views, learned)
    task = LinearHeads(
        judged.backbone,
        judged.classes,
        derived_seed(judged.seed, "linear heads"),
        features=heads.features,
        rates=heads.rates,
        stored=stored,
    )
    train(
        task,
        recipe,
        images,
        views,
        judged.checkpoint({**judged.inputs, "evaluation": heads.evaluation}),
        judged.execution_of(heads.evaluation),
        seed=judged.seed,
        view_epoch=partial(_replay, views=heads.views),
        curve=heads.curve,
    )
    task.eval()
    top1, top5 = judged.accuracies(task.logits, judged.test)
    chosen_by = top1 if choosing is None else judged.accuracies(task.logits, judged.train, choosing)[0]
    best = int(chosen_by.argmax())  # the lower rate of equals
    feature, rate = task.heads[best]
    of = "" if len(heads.features) > 1 else " on the feature of the model's size" if heads.by_size else f" on {feature}"
    protocol = f"{heads.protocol}{of}, {recipe.optimizer.name}, {recipe.epochs} epochs"
    chosen = {"rate": rate, "blocks": feature.blocks, "patch_mean": int(feature.patch_mean)}
    sweep = {f"{feature}, rate {rate:g}": float(top1[place]) for place, (feature, rate) in enumerate(task.heads)}
    if alone:
        chosen, sweep = {}, {}
    return ProbeResult(protocol, float(top1[best]), float(top5[best]), chosen, sweep)


def _images(
    judged: Judged, heads: _Heads, views: ViewRecipe, learned: NDArray[np.int64]
) -> tuple[ImageSet, Callable[[Batch], Tensor] | None]:
    """The images to learn from, and where views are stored, what gives their tokens: then nobody looks at pixels."""
    if heads.views is None:
        return ChosenImages(judged.train, learned), None
    kept = StoredViews(judged, views, heads.views, max(feature.blocks for feature in heads.features))
    kept.fill()
    return Unseen(np.asarray(judged.train.labels)[learned]), kept.replayed(learned)


def _replay(epoch: int, *, views: int | None) -> int:
    """The view of an epoch."""
    return epoch if views is None else epoch % views


def _check_depth(judged: Judged, heads: _Heads) -> None:
    asked, depth = max(feature.blocks for feature in heads.features), len(judged.backbone.blocks)
    if asked > depth:
        raise ValueError(f"probe.{heads.evaluation}.blocks {asked}; this model has {depth}")

"""Fine-tuning: the whole model learns from labels, by the published recipes; rate and epoch are chosen on validation.

Every rate of the sweep is a run of its own through the one training loop. After each epoch that counts, it is judged on
the part of train for hyper-parameters and on test: the curves say which rate and epoch to take, and what the last epoch
would have said is reported beside it. The authors publish the best epoch *on test*: `choose: test` does so, under a
protocol name of its own. A rate is times the recipe's, which is named for 256 images as everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attndistill.core.progress import say
from attndistill.core.randomness import derived_seed
from attndistill.data.augmentation import Augmentation
from attndistill.data.store import ChosenImages
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import ProbeResult
from attndistill.evaluations.judged import Judged, protocol_of
from attndistill.evaluations.linear import check_groups
from attndistill.runs import train
from attndistill.tasks.finetuning import FineTuning, Regularisation, first_layers
from attndistill.training.loop import History
from attndistill.training.optimizers import RateCurve
from attndistill.training.recipe import Recipe

# curves, and how a point of one is named in the sweep
_VALIDATION, _TEST, _TEST5, _AVERAGE = "validation_top1", "test_top1", "test_top5", "average_test_top1"
_TOLD = {_TEST: "", _VALIDATION: ", validation", _AVERAGE: ", averaged weights"}


@dataclass(frozen=True)
class _Published:
    """What a protocol fixes, and the settings it has where null is given.

    Attributes:
        drop_path: width of a model from which on -> chance, the narrowest first.
        ema_decay: of the average of the weights that it keeps; 0: it keeps none.
    """

    curve: RateCurve
    layer_decay: float
    repeats: int
    drop_path: Mapping[int, float]
    pooled: bool = False
    ema_decay: float = 0.0

    def drop_path_of(self, width: int) -> float:
        """For a model of this width: S, B, L and H have 384, 768, 1024 and 1280."""
        return [chance for least, chance in self.drop_path.items() if width >= least][-1]


PUBLISHED = {
    "deit-v1": _Published(
        RateCurve(start=1e-6, lowest=1e-5, per_epoch=True, whole=True),
        layer_decay=1.0,
        repeats=3,
        drop_path={0: 0.1},
        ema_decay=0.99996,
    ),
    "beit-ld-v1": _Published(
        RateCurve(lowest=1e-6), layer_decay=0.75, repeats=1, drop_path={0: 0.1, 768: 0.2, 1024: 0.4}
    ),
    "mae-v1": _Published(
        RateCurve(lowest=1e-6), layer_decay=0.65, repeats=1, drop_path={0: 0.1, 1024: 0.2, 1280: 0.3}, pooled=True
    ),
}


@EVALUATIONS.register(
    "finetune",
    title="Fine-tuning",
    on="model",
    trains="backbone",
    figures={
        "top1": ("top-1", "%", "maximize", 1),
        "top5": ("top-5", "%", "maximize", 1),
        "last_top1": ("top-1, last epoch", "%", "maximize", 1),
    },
)
def finetune(
    judged: Judged,
    *,
    protocol: Literal["deit-v1", "beit-ld-v1", "mae-v1"] = "deit-v1",
    choose: Literal["validation", "test"] = "validation",
    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [1.0],  # noqa: B006
    evaluate_every: Annotated[int, Field(gt=0)] = 1,
    keep_projector_layer: Annotated[int, Field(ge=0)] = 0,
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None,
    repeats: Annotated[int, Field(gt=0)] | None = None,
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None,
    policy: Annotated[
        str, Field(pattern=r"^(rand(-(m|n|mmax)[0-9]+|-(p|mstd)[0-9]+([.][0-9]+)?|-inc[01])+)?$")
    ] = "rand-m9-mstd0.5-inc1",
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.25,
    mixup: Annotated[float, Field(ge=0)] = 0.8,
    cutmix: Annotated[float, Field(ge=0)] = 1.0,
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    mixing_group: Annotated[int, Field(ge=2, multiple_of=2)] = 64,
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.08,
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None,
    recipe: Recipe,
) -> ProbeResult:
    """Train the model and a new head on labels; top-1 and top-5 on test, of the chosen rate and epoch and of the last.

    `layer_decay`, `repeats`, `drop_path` (for the model's size) and `ema_decay` are the protocol's where null.
    `evaluate_every` epochs it is judged, and after the last. `mixing_group` images are mixed together, as those of one
    device are where the recipe was made. With `keep_projector_layer` n the head stands on the first n layers of P,
    where a model has one. The average of the weights, where one is kept, is judged once, at the end of each rate: a
    part of the sweep by which nothing is chosen.

    Raises:
        ValueError: groups that a batch cannot be cut into, a layer that P does not have, a class without a training
            image, or none left to choose on.
    """
    recipe, published = Recipe.model_validate(recipe), PUBLISHED[protocol]
    given = {"layer_decay": layer_decay, "repeats": repeats, "drop_path": drop_path, "policy": policy}
    given |= {"erasing": erasing, "mixup": mixup, "cutmix": cutmix, "smoothing": smoothing}
    given |= {"mixing_group": mixing_group, "smallest_crop": smallest_crop}
    sweep = _Sweep(
        judged,
        published,
        Regularisation(
            published.drop_path_of(int(judged.backbone.embed_dim)) if drop_path is None else drop_path,
            mixup,
            cutmix,
            smoothing,
            mixing_group,
        ),
        Augmentation(derived_seed(judged.seed, "augmentation"), policy, erasing),
        layer_decay=published.layer_decay if layer_decay is None else layer_decay,
        repeats=repeats or published.repeats,
        smallest_crop=smallest_crop,
        keep=keep_projector_layer,
        every=evaluate_every,
        on_test=choose == "test",
        ema_decay=published.ema_decay if ema_decay is None else ema_decay,
    )
    sweep.check(recipe)
    curves = {rate: sweep.run(recipe, rate) for rate in rates}
    by = _TEST if choose == "test" else _VALIDATION
    points = [(value, rate, int(epoch)) for rate, curve in curves.items() for epoch, value in curve[by]]
    _, rate, epoch = max(points, key=lambda point: (point[0], -point[2], -point[1]))  # of equals the earlier, the lower
    top1, top5 = ({int(at): value for at, value in curves[rate][name]} for name in (_TEST, _TEST5))
    authors = protocol.replace("-v1", "-best-on-test-v1") if choose == "test" else protocol
    name = protocol_of("finetune", f"finetune/{authors}", given)
    kept = f", head on P's layer {keep_projector_layer} where there is one" if keep_projector_layer else ""
    return ProbeResult(
        f"{name}{kept}, {recipe.epochs} epochs, {len(rates)} rate{'s' if len(rates) > 1 else ''}",
        top1[epoch],
        top5[epoch],
        {"rate": rate, "epoch": epoch},
        {
            f"rate {rate:g}, epoch {int(epoch)}{told}": value
            for rate, curve in curves.items()
            for name, told in _TOLD.items()
            for epoch, value in curve.get(name, ())
        },
        {"last_top1": curves[rate][_TEST][-1][1]},
    )


@dataclass(frozen=True)
class _Sweep:
    """Runs that differ in their rate alone; attributes are the options of `finetune`."""

    judged: Judged
    published: _Published
    regularisation: Regularisation
    augmentation: Augmentation
    layer_decay: float
    repeats: int
    smallest_crop: float
    keep: int
    every: int
    on_test: bool
    ema_decay: float

    def check(self, recipe: Recipe) -> None:
        """Refuse before anything trains. Raises ValueError."""
        self.judged.check_classes(self._parts[0])
        if self.keep and self.judged.projector is not None:
            first_layers(self.judged.projector, self.keep)
        if self.regularisation.mixes:
            length, group = len(self._parts[0]), self.regularisation.group
            check_groups(self.judged, recipe, length, group, "probe.finetune.mixing_group")

    def run(self, recipe: Recipe, rate: float) -> History:
        """The curves of one rate."""
        judged = self.judged
        recipe = recipe.model_copy(update={"base_learning_rate": recipe.base_learning_rate * rate})
        if judged.execution.is_main and self.published.curve.lowest > recipe.peak_learning_rate:
            lowest, peak = self.published.curve.lowest, recipe.peak_learning_rate
            say(f"finetune: the learning rate ends at {lowest:g}, above its peak {peak:g}, as the recipe is published")
        projector = first_layers(judged.projector, self.keep) if self.keep and judged.projector is not None else None
        task = FineTuning(
            judged.backbone,
            judged.classes,
            derived_seed(judged.seed, "fine-tuning"),
            self.regularisation,
            layer_decay=self.layer_decay,
            pooled=self.published.pooled,
            projector=projector,
            ema_decay=self.ema_decay,
        )
        return train(
            task,
            recipe,
            ChosenImages(judged.train, self._parts[0]),
            replace(judged.views, scale=(self.smallest_crop, 1.0)),
            judged.checkpoint({**judged.inputs, "evaluation": "finetune", "rate": repr(rate)}),
            judged.execution_of(f"finetune/rate-{rate:g}"),
            seed=judged.seed,
            evaluate=lambda epoch: self._judge(task, epoch, recipe.epochs, rate),
            curve=self.published.curve,
            augmentation=self.augmentation,
            repeats=self.repeats,
        )

    @property
    def _parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        return (self.judged.kept, None) if self.on_test else self.judged.parts

    def _judge(self, task: FineTuning, epoch: int, epochs: int, rate: float) -> dict[str, float] | None:
        if epoch % self.every and epoch != epochs:
            return None
        task.eval()
        top1, top5 = self.judged.accuracies(task.logits, self.judged.test)
        found = {_TEST: float(top1), _TEST5: float(top5)}
        choosing = self._parts[1]
        if choosing is not None:
            found[_VALIDATION] = float(self.judged.accuracies(task.logits, self.judged.train, choosing)[0])
        if task.average is not None and epoch == epochs:
            with task.average.in_place_of(task):
                found[_AVERAGE] = float(self.judged.accuracies(task.logits, self.judged.test)[0])
        if self.judged.keep is not None:
            self.judged.keep((found[_TEST if self.on_test else _VALIDATION], -epoch, -rate), task)
        return found

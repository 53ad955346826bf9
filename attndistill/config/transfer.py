"""Transfer sets by name: fine-tuned as the supplementary says (AdamW, batches of 1,024, weight decay 0.05) by DeiT's
recipe at 224 px, with the rates, epochs and erasing of iBOT and Mugs (whose batches have 768 images).

`datasets: {cars: {preset: cars, data: {set: {root: ...}}}}`; what is given beside the preset wins. The rates that are
swept are those that the two publish for S and B, and ours is on the validation part of train.
(Mugs has weight decay 0.02 on CIFAR-100 for S, and drop path 0.3 on Cars for B.)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attndistill.config.layers import overlay


class Transfer(NamedTuple):
    """One set.

    Attributes:
        images: the section `data.set` without its root.
        published: learning rates for 512 images, lowest first.
        epochs: of fine-tuning.
        counts: training images, test images and classes; None where the facts at hand do not say.
    """

    images: Mapping[str, Any]
    published: Sequence[float]
    epochs: int
    counts: tuple[int | None, int | None, int | None]


def _torchvision(name: str) -> dict[str, Any]:
    return {"name": "torchvision", "set_name": name}


TRANSFER = {
    "cifar10": Transfer(_torchvision("CIFAR10"), (3.0e-6, 7.5e-6), 1000, (50_000, 10_000, 10)),
    "cifar100": Transfer(_torchvision("CIFAR100"), (7.5e-6,), 1000, (50_000, 10_000, 100)),
    "flowers102": Transfer(_torchvision("Flowers102"), (7.5e-6, 7.5e-5), 1000, (2_040, 6_149, 102)),
    "cars": Transfer(_torchvision("StanfordCars"), (7.5e-5, 1.5e-4), 1000, (8_144, 8_041, 196)),
    # a tree train/<class>/*, val/<class>/* by the level `name` of the annotations
    "inat18": Transfer({"name": "image_folder"}, (7.5e-6, 1.5e-5, 3.0e-5, 5.0e-5), 360, (None, None, 8_142)),
    "inat19": Transfer({"name": "image_folder"}, (7.5e-6, 2.5e-5, 3.0e-5, 7.5e-5), 360, (None, None, 1_010)),
}


def preset(name: str) -> dict[str, Any]:
    """The entry of `datasets` that a name stands for."""
    one = TRANSFER[name]
    lowest = one.published[0]
    recipe = {
        "epochs": one.epochs,
        "batch_size": 1024,
        "base_learning_rate": lowest / 2,  # named for 256 images
        "warmup_epochs": 5,
        "precision": "bf16",
        "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.05},
    }
    tuned = {"protocol": "deit-v1", "rates": [rate / lowest for rate in one.published], "erasing": 0.1}
    return {
        "data": {"set": dict(one.images)},
        "views": {"image_size": 224, "flip_probability": 0.5, "evaluation_crop": 0.875},
        "probe": {
            "labels": {"fraction": None, "list_file": None},
            "linear": None,  # Table 9's batch is larger than most of these sets
            "finetune": {**tuned, "evaluate_every": 10, "recipe": recipe},
        },
    }


def with_transfer_presets(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer of settings with each data set's `preset` spelt out; what is given beside it wins.

    Raises:
        ValueError: an unknown preset.
    """
    given = layer.get("datasets")
    if not isinstance(given, Mapping):
        return dict(layer)
    spelt = {}
    for name, one in given.items():
        wanted = one.get("preset") if isinstance(one, Mapping) else None
        if wanted is not None and (not isinstance(wanted, str) or wanted not in TRANSFER):
            raise ValueError(f"datasets.{name}.preset: {wanted!r}; allowed: {', '.join(TRANSFER)}")
        spelt[name] = overlay(preset(wanted), one) if wanted is not None else one
    return {**layer, "datasets": spelt}

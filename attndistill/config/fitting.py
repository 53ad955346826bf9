"""What must fit together across sections; each section checks itself."""

from typing import TYPE_CHECKING

from attndistill.losses.fields import teacher_fields

if TYPE_CHECKING:
    from attndistill.config.schema import Config


def check_fit(config: "Config") -> None:
    """Raise ValueError for sections that are possible each and impossible together."""
    _viewable(config)
    _guidable(config)
    _answerable(config)
    _divisible(config)
    for name in ("", *config.datasets):
        layer = config.probe_of(name).projector_layer
        if layer > config.distill.projector_depth:
            raise ValueError(
                f"{_probe(name)}.projector_layer {layer}; allowed: 0 to distill.projector_depth "
                f"{config.distill.projector_depth}"
            )


def _probe(data: str) -> str:
    """The section's name for a data set."""
    return f"datasets.{data}.probe" if data else "probe"


def _viewable(config: "Config") -> None:
    """A view is cut into whole patches, some hidden and some seen."""
    size, ratio = config.views.image_size, config.pretrain.mask_ratio
    for name, vit in (("teacher", config.teacher), ("student", config.student)):
        if size % vit.patch_size:
            raise ValueError(f"{name}.patch_size {vit.patch_size} does not divide views.image_size {size}")
        for other, data in config.datasets.items():
            if data.views.image_size % vit.patch_size:
                raise ValueError(
                    f"{name}.patch_size {vit.patch_size} does not divide datasets.{other}.views.image_size "
                    f"{data.views.image_size}"
                )
        patches = (size // vit.patch_size) ** 2
        if round(patches * (1 - ratio)) in (0, patches):
            raise ValueError(f"pretrain.mask_ratio {ratio} hides all or none of {patches} patches ({name})")


def _guidable(config: "Config") -> None:
    """Teacher and student can be matched token by token and head by head, where the losses do so."""
    teacher, student, distill = config.teacher, config.student, config.distill
    by_attention, by_patch = distill.lambda_ > 0, "patch_tokens" in teacher_fields(distill)
    if (by_attention or by_patch) and teacher.patch_size != student.patch_size and not distill.interpolation:
        raise ValueError(
            f"distill.interpolation is off, but the patch grids differ (teacher.patch_size "
            f"{teacher.patch_size}, student.patch_size {student.patch_size})"
        )
    heads_apart = by_attention and distill.aggregation.name == "none"
    if heads_apart and teacher.num_heads != student.num_heads:
        raise ValueError(
            f"distill.aggregation none matches heads one to one, but teacher.num_heads is "
            f"{teacher.num_heads} and student.num_heads {student.num_heads}"
        )


def _answerable(config: "Config") -> None:
    """The cache holds what the losses ask of the teacher."""
    for field, setting in teacher_fields(config.distill).items():
        if config.targets.cache and field not in config.targets.extra:
            raise ValueError(
                f"{setting} needs the teacher's {field}, which the cache does not hold: "
                f"add {field} to targets.extra, or set targets.cache to false"
            )


def _divisible(config: "Config") -> None:
    """A batch is cut into whole micro-batches; how many ranks share it, only the run knows."""
    recipes = {"pretrain": config.pretrain.recipe, "distill": config.distill.recipe}
    for data in ("", *(name for name, one in config.datasets.items() if one.probe)):
        for name, options in config.probe_of(data):  # of an evaluation that trains
            recipe, group = getattr(options, "recipe", None), getattr(options, "statistics", 1)
            recipes |= {f"{_probe(data)}.{name}": recipe} if recipe else {}
            if recipe and recipe.batch_size % group:
                raise ValueError(
                    f"{_probe(data)}.{name}: recipe.batch_size {recipe.batch_size} is no multiple of statistics {group}"
                )
    for name, recipe in recipes.items():
        size = config.runtime.micro_batch_size
        if size and recipe.batch_size % size:
            raise ValueError(
                f"runtime.micro_batch_size {size} does not divide {name}.recipe.batch_size {recipe.batch_size}"
            )

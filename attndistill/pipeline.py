"""Run stages: resolve the configuration, fix threads and determinism, record the run."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attndistill.config import Config
from attndistill.core.artifacts import read_json
from attndistill.experiments import Experiment
from attndistill.stages.code import code_digest
from attndistill.stages.layout import Layout
from attndistill.stages.table import STAGES, Stage
from attndistill.tracking import Recorder


def run_stage(experiment: Experiment, stage: Stage, item: str, overrides: Mapping[str, Any]) -> None:
    """Run one stage on one item.

    Args:
        experiment: configuration and rows.
        stage: from the table of stages.
        item: the model or row; "" for stages without one.
        overrides: dotted key -> value, from the command line.

    Raises:
        ValueError: an unknown item, a refused configuration, missing inputs.
    """
    is_main = os.environ.get("RANK", "0") == "0"  # of a distributed run, one process writes
    if not (is_main or stage.distributed):
        return
    config = check_item(experiment, stage, item, overrides)
    layout = Layout(experiment.root, experiment.name)
    inputs = stage.inputs(layout, item)
    _check_inputs(stage, layout, inputs, config)
    with Recorder.open(
        root=experiment.root,
        command=stage.name,
        name=f"{stage.name}@{item}" if item else stage.name,
        experiment=experiment.name,
        config=config.plain(),
        argv=sys.argv,
        inputs=inputs,
        enabled=is_main and config.runtime.tracking,
    ) as recorder:
        make_deterministic(config)
        from attndistill.stages.context import Context

        code = code_digest(stage.module)
        context = Context(config, layout, stage.name, item, experiment.file, recorder, is_main, code)
        if is_main:
            _tell_imitated(config, stage.name, context.device.type)
        stage.run(context)


def check_item(experiment: Experiment, stage: Stage, item: str, overrides: Mapping[str, Any]) -> Config:
    """The configuration of an item.

    Raises:
        ValueError: the stage has no such item; its configuration, or another row's, is refused.
    """
    config = experiment.config(item, overrides)
    experiment.check_rows(overrides)
    allowed = stage.items(tuple(experiment.rows), tuple(config.downloads))
    if item not in allowed:
        kind = stage.item if stage.item in ("row", "download") else "model"
        raise ValueError(f"{stage.name}: unknown {kind} {item!r}; allowed: {', '.join(allowed) or 'none here'}")
    return config


def _check_inputs(stage: Stage, layout: Layout, inputs: Sequence[Path], config: Config) -> None:
    """Before torch is imported: everything is there, and models take images of the configured size."""
    for path in inputs:
        name = path.relative_to(layout.root)
        if not path.exists():
            raise ValueError(f"{stage.name}: {name} does not exist: run the stage that makes it first")
        for description in path.glob("seed-*/model.json"):
            found, wanted = read_json(description), config.views.image_size
            if isinstance(found, dict) and found.get("image_size", wanted) != wanted:
                raise ValueError(
                    f"{stage.name}: {name} was made for images of {found['image_size']} px, and views.image_size is "
                    f"{wanted}: run the stage that makes it again, or set views.image_size back"
                )


def every_stage(experiment: Experiment, overrides: Mapping[str, Any]) -> list[tuple[Stage, str]]:
    """Every stage on every item, in order."""
    rows, downloads = tuple(experiment.rows), tuple(experiment.config("", overrides).downloads)
    return [(stage, item) for stage in STAGES.values() for item in stage.items(rows, downloads)]


def run_pipeline(experiment: Experiment, overrides: Mapping[str, Any]) -> None:
    """Run every stage on every item, in order, in this process; DVC's bookkeeping is left alone."""
    for item in experiment.rows:
        experiment.config(item, overrides)  # refuse a bad row before the first stage costs anything
    config = experiment.config("", overrides)
    with Recorder.open(
        root=experiment.root,
        command="pipeline",
        name="pipeline",
        experiment=experiment.name,
        config=config.plain(),
        argv=sys.argv,
        enabled=config.runtime.tracking,
    ):
        for stage, item in every_stage(experiment, overrides):
            run_stage(experiment, stage, item, overrides)


def make_deterministic(config: Config) -> None:
    """Fix everything outside the configuration that could change a sum: threads, kernels, their choice."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic cuBLAS asks for
    import torch

    torch.use_deterministic_algorithms(True)
    # a debugging aid: nothing here reads the memory it fills
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        backend.allow_tf32 = False  # fp32 is fp32: cuDNN rounds convolutions to tf32 unless told not to
    if config.runtime.threads is not None:
        torch.set_num_threads(config.runtime.threads)


def _tell_imitated(config: Config, stage: str, device: str) -> None:
    """A processor without bf16 instructions imitates them: its products take 3 to 5 times as long as in fp32."""
    recipe = getattr(getattr(config, stage, None), "recipe", None)
    if device != "cpu" or getattr(recipe, "precision", "fp32") == "fp32":
        return
    import torch

    able = torch.cpu.get_capabilities()
    if able.get("architecture") == "x86_64" and not (able.get("avx512_bf16") or able.get("amx_bf16")):
        text = f"this processor has no bf16 instructions: {stage}.recipe.precision fp32 would be several times as fast"
        print(f"attndistill: note: {text}", file=sys.stderr)


def project_root() -> Path:
    """Where params.yaml, outputs/ and results/ are: ATTNDISTILL_ROOT, else the working directory."""
    return Path(os.environ.get("ATTNDISTILL_ROOT") or Path.cwd()).resolve()

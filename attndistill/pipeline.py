"""Run stages: resolve the configuration, fix threads and determinism, record the run."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndistill.config import Config
from attndistill.core.artifacts import read_json
from attndistill.core.process import collect_from_here
from attndistill.core.ranks import ranks_of_environment
from attndistill.drivers import LOCK, stale_lock
from attndistill.experiments import Experiment
from attndistill.lock_order import in_declared_order
from attndistill.stages import STAGES, Item, Stage
from attndistill.stages.code import code_digest
from attndistill.stages.finished import Finished
from attndistill.stages.sufficiency import check_sufficient
from attndistill.tracking import Recorder
from attndistill.tracking.call import call_of_dvc

if TYPE_CHECKING:
    from attndistill.stages.context import Context


def run_stage(
    experiment: Experiment,
    stage: Stage,
    item: Item,
    overrides: Mapping[str, Any],
    context_of: "Callable[..., Context] | None" = None,
) -> None:
    """Run one stage on one item, in the experiment's folder. Under DVC, what an engine has made is put in its place.

    Args:
        experiment: configuration and rows.
        stage: one of the declared stages.
        item: the model, row or download, and the data set.
        overrides: dotted key -> value, from the command line.
        context_of: makes the stage's context, in place of `Context`.

    Raises:
        ValueError: an unknown item, a refused configuration, missing inputs.
    """
    is_main = ranks_of_environment()[0] == 0  # of a distributed run, one process writes
    if not (is_main or stage.distributed):
        return
    config = check_item(experiment, stage, item, overrides)
    inputs = stage.inputs(experiment.layout, item)
    _check_inputs(experiment, stage, inputs, config)
    check_sufficient(config, experiment.layout, experiment.folder, trains=stage.name == "pretrain")
    if os.environ.get("DVC_STAGE") and _taken(experiment, stage, item, config):
        in_declared_order(experiment.folder, list(experiment.rows))
        return
    with (
        chdir(experiment.folder),
        Recorder.open(
            root=experiment.project,
            command=stage.name,
            name=f"{stage.name}@{item.label}" if item.label else stage.name,
            experiment=experiment.name,
            config=config.plain(),
            changes=experiment.changes(item.name, overrides),
            argv=sys.argv,
            seeds=(config.teacher_seed,) if item.name == "teacher" else config.seeds,
            inputs=inputs,
            outputs=stage.outputs(experiment.layout, item),
            accounts=[path for path in [experiment.layout.result("training", "teacher.json")] if path.exists()],
            enabled=is_main and config.runtime.tracking,
        ) as recorder,
    ):
        if not stage.light:
            make_deterministic(config)
        from attndistill.stages.context import Context
        from attndistill.stages.soundness import check_inputs

        code = code_digest(stage.module)
        if is_main and stale_lock(experiment, stage):
            note = f"{LOCK} is of other code than this: run `attndistill code`, so that dvc repro knows"
            print(f"attndistill: note: {note}", file=sys.stderr)
        context = (context_of or Context)(
            config, experiment.layout, stage.name, item, experiment.file, recorder, is_main, code
        )
        if is_main:
            _note_imitated(config, stage.name)
            check_inputs(context, stage, inputs)
        collect_from_here()
        stage.run(context)
    if is_main and os.environ.get("DVC_STAGE"):
        in_declared_order(experiment.folder, list(experiment.rows))


def _taken(experiment: Experiment, stage: Stage, item: Item, config: Config) -> bool:
    """Whether an engine's workers have made this already; a forced run computes all the same."""
    finished = Finished(experiment.layout, stage, item, config, experiment.file)
    call = call_of_dvc() if finished.folder.exists() else None
    if not finished.folder.exists() or (call and {"-f", "--force"} & set(call.command.split())):
        return False
    if not finished.take(finished.key(), last=True):
        return False
    print(f"{stage.name} {item.label}: finished before by an engine's worker; nothing is computed".replace(" :", ":"))
    return True


def check_item(experiment: Experiment, stage: Stage, item: Item, overrides: Mapping[str, Any]) -> Config:
    """The configuration of an item.

    Raises:
        ValueError: the stage has no such item; its configuration, or another row's, is refused.
    """
    config = experiment.config(item.name, overrides)
    experiment.check_rows(overrides)
    allowed = stage.names(tuple(experiment.rows), experiment.asked(config))
    if item.name not in allowed:
        kind = "download" if stage.over == "download" else stage.option
        raise ValueError(f"{stage.name}: unknown {kind} {item.name!r}; allowed: {', '.join(allowed) or 'none here'}")
    if item.data and not (stage.judges and item.data in config.datasets):
        raise ValueError(
            f"{stage.name}: unknown data set {item.data!r}; allowed: {', '.join(config.datasets) or 'none here'} "
            "(the section `datasets`)"
        )
    if item not in experiment.items(stage, config):
        raise ValueError(f"{stage.name}: {item.data!r} is the experiment's own images; allowed: without --data")
    return config


def maker_of(experiment: Experiment, path: Path) -> str | None:
    """The command that makes a file or folder; None where no stage does."""
    config = experiment.config("", {})
    for stage in STAGES.values():
        for item in experiment.items(stage, config):
            if any(path == made or path in made.parents for made in stage.outputs(experiment.layout, item)):
                return command_of(stage, item)
    return None


def command_of(stage: Stage, item: Item) -> str:
    """What to type to run a stage on an item."""
    words = ["attndistill", stage.name, *([f"--{stage.option}", item.name] if stage.option else [])]
    return " ".join([*words, *(["--data", item.data] if item.data else [])])


def missing_input(experiment: Experiment, path: Path) -> str:
    """What is missing and how to make it, as a sentence."""
    command = maker_of(experiment, path)
    return f"{path.relative_to(experiment.folder)} does not exist" + (f": run `{command}`" if command else "")


def _check_inputs(experiment: Experiment, stage: Stage, inputs: Sequence[Path], config: Config) -> None:
    """Before torch is imported: everything is there, and models take images of the configured size."""
    for path in inputs:
        if not path.exists():
            raise ValueError(f"{stage.name}: {missing_input(experiment, path)}")
        name = path.relative_to(experiment.folder)
        for description in path.glob("seed-*/model.json"):
            found, wanted = read_json(description), config.views.image_size
            if isinstance(found, dict) and found.get("image_size", wanted) != wanted:
                raise ValueError(
                    f"{stage.name}: {name} was made for images of {found['image_size']} px, and views.image_size is "
                    f"{wanted}: run the stage that makes it again, or set views.image_size back"
                )


def every_stage(experiment: Experiment, overrides: Mapping[str, Any]) -> list[tuple[Stage, Item]]:
    """Every stage on every item, in order."""
    config = experiment.config("", overrides)
    return [(stage, item) for stage in STAGES.values() for item in experiment.items(stage, config)]


def run_pipeline(experiment: Experiment, overrides: Mapping[str, Any]) -> None:
    """Run every stage on every item, in order, in this process; DVC's bookkeeping is left alone."""
    for row in experiment.rows:
        experiment.config(row, overrides)  # refuse a bad row before the first stage costs anything
    config, (rank, ranks) = experiment.config("", overrides), ranks_of_environment()
    with recorded_pipeline(experiment, config, overrides, enabled=config.runtime.tracking and rank == 0):
        for stage, item in every_stage(experiment, overrides):
            run_stage(experiment, stage, item, overrides)
            if ranks > 1:
                _wait_for_every_rank(config)


def recorded_pipeline(
    experiment: Experiment, config: Config, overrides: Mapping[str, Any], *, enabled: bool
) -> AbstractContextManager[Recorder]:
    """The run that those of the stages are children of."""
    return Recorder.open(
        root=experiment.project,
        command="pipeline",
        name="pipeline",
        experiment=experiment.name,
        config=config.plain(),
        changes=experiment.changes("", overrides),
        argv=sys.argv,
        seeds=config.seeds,
        enabled=enabled,
    )


def _wait_for_every_rank(config: Config) -> None:
    """No rank runs ahead: what one process alone makes is there before the others read it."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=config.runtime.device == "cpu" or not torch.cuda.is_available()).wait_for_everyone()


def make_deterministic(config: Config) -> None:
    """Fix everything outside the configuration that could change a sum: threads, kernels, their choice."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic cuBLAS asks for
    import torch

    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms(True), which imports a compiler
    # a debugging aid: nothing here reads the memory it fills
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    for backend in backends:
        backend.allow_tf32 = False  # fp32 is fp32: cuDNN rounds convolutions to tf32 unless told not to
    if config.runtime.threads is not None:
        torch.set_num_threads(config.runtime.threads)


def _note_imitated(config: Config, stage: str) -> None:
    """A processor without bf16 instructions imitates them: its products take 3 to 5 times as long as in fp32."""
    section = getattr(config, stage, None)
    asked, setting = getattr(section, "recipe", section), f"{stage}.recipe" if hasattr(section, "recipe") else stage
    if getattr(asked, "precision", "fp32") == "fp32":
        return
    import torch

    if config.runtime.device not in ("auto", "cpu") or torch.cuda.is_available():
        return
    able = torch.cpu.get_capabilities()
    if able.get("architecture") == "x86_64" and not (able.get("avx512_bf16") or able.get("amx_bf16")):
        text = f"this processor has no bf16 instructions: {setting}.precision fp32 would be several times as fast"
        print(f"attndistill: note: {text}", file=sys.stderr)

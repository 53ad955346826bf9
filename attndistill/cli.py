"""The command line. Nothing heavy is imported before the arguments are understood."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from attndistill import __version__
from attndistill.core.memory import memory_ran_out
from attndistill.core.process import collect_from_here
from attndistill.core.progress import say
from attndistill.core.secrets import hidden
from attndistill.core.words import shown

_SETTINGS = """\
Any setting of params.yaml can be given as --section.key value (or --section.key=value), for example
  attndistill distill --row attndistill --distill.lambda 0.3 --distill.aggregation.name max
"""
_MOST_TEXT = 20_000  # letters of a message that are looked at; a tenth of them is shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2: something the user can fix, 1: the run failed, 130: interrupted)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        words, overrides = _without_settings(arguments)
        options, rest = _parser().parse_known_args(words)
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}; settings are given as --section.key value")
        if options.handle is not _run_stage:  # which begins its work later
            collect_from_here()
        return int(options.handle(options, overrides) or 0)
    except ValueError as error:
        return _complain(error, 2)
    except FloatingPointError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:  # `attndistill config | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (MemoryError, RuntimeError) as error:
        if not memory_ran_out(error):
            raise
        return _complain("memory is exhausted: fewer images at once (runtime.micro_batch_size), smaller models", 1)
    except OSError as error:  # a full disk, a folder that is a file, a child that was killed
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
    except AssertionError as error:
        if not str(error):
            raise  # it was not written to be read
        return _complain(f"a check of the program itself failed: {error}", 1)


def _complain(problem: object, code: int) -> int:
    text = str(problem)
    text = text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT // 2]}…{text[-_MOST_TEXT // 2 :]}"
    say(f"attndistill: {shown(hidden(' '.join(text.split()), code=True), 2000)}", "stderr")
    if os.environ.get("ATTNDISTILL_TRACEBACK"):
        import traceback

        traceback.print_exc()
    return code


class _Parser(argparse.ArgumentParser):
    """Complains in one line, like everything else here."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    from attndistill.stages import STAGES

    parser = _Parser(
        prog="attndistill",
        description="Attention distillation of self-supervised vision transformers.",
        epilog=_SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"attndistill {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for stage in STAGES.values():
        command = _command(commands, stage.name, stage.summary, _run_stage)
        command.set_defaults(stage=stage)
        _add_dry_run(command)
        if stage.option:
            required = stage.over != "export"  # whose command takes any other model, too
            command.add_argument(f"--{stage.option}", dest="item", default="", required=required, metavar="NAME")
        if stage.judges:
            command.add_argument("--data", default="", metavar="NAME", help="a further data set; default: the own one")
        if stage.over == "export":
            _add_export(command)
    whole = "every stage, in this process (dvc repro runs only what must run)"
    pipeline = _command(commands, "pipeline", whole, _run_pipeline)
    _add_dry_run(pipeline)
    on = "run what must run on the workers that this file names (docs/scaling.md)"
    pipeline.add_argument("--on", metavar="FILE", help=on)
    _command(commands, "status", "what every task of a run by --on is doing", _show_status)
    _command(commands, "drivers", "write an experiment's dvc.yaml and MLproject from the stages", _write_drivers)
    code = "write attndistill.lock: digests of the stages' code, which DVC watches (its first stage)"
    _command(commands, "code", code, _write_lock)
    _command(commands, "compare", "what DVC's experiments change and what came out, on one screen", _compare)
    verify = commands.add_parser(
        "verify", help=(what := "check results, dvc.lock, code and cache; trains nothing"), description=what
    )
    verify.add_argument("--experiment", metavar="FOLDER", help="default: every one of the project")
    verify.set_defaults(handle=_verify)
    what = "make a figure again from its commit, command and inputs, and compare"
    again = commands.add_parser("rebuild", help=what, description=what, allow_abbrev=False)
    again.add_argument("reference", metavar="RUN", help="the beginning of a run id, a result file, or REVISION:PATH")
    again.add_argument("--environment", default="current", choices=("current", "same"), help="default: %(default)s")
    again.add_argument("--dry-run", action="store_true", help="say what it would need and cost")
    again.set_defaults(handle=_rebuild)
    what = "follow a figure back to runs, code, data and teacher"
    chain = commands.add_parser("trace", help=what, description=what, allow_abbrev=False)
    what = "a row of the report with a COLUMN; a result file, REVISION:PATH, or a run; default: a line for every file"
    chain.add_argument("figure", nargs="?", help=what)
    chain.add_argument("column", nargs="?", help="such as knn_top1")
    chain.add_argument("--experiment", default=".", metavar="FOLDER", help="of the row; default: this one")
    chain.set_defaults(handle=_trace)
    _command(commands, "sizes", "parameters and tokens of the teacher, the student and the named sizes", _show_sizes)
    show = _command(commands, "config", "print the resolved configuration", _show_config)
    show.add_argument("--row", dest="item", default="", metavar="NAME")
    inspect = commands.add_parser("inspect", help="load a teacher checkpoint strictly and say what is in it")
    inspect.add_argument("path", help="a safetensors or torch file, or a folder stored by this package")
    inspect.add_argument("--format", default="auto", help="a teacher format; default: recognised")
    inspect.add_argument("--half", default="teacher", choices=("teacher", "student"), help="default: %(default)s")
    weights = "ema: the averaged weights of a file that holds both"
    inspect.add_argument("--weights", default="plain", choices=("plain", "ema"), help=weights)
    inspect.add_argument("--timm-name", help="the architecture, where the tensors do not tell it")
    inspect.add_argument("--num-heads", type=int, help="heads per block, where they are not of width 64")
    inspect.add_argument("--image-size", type=int, help="pixels, where it is not the one it was trained for")
    inspect.add_argument("--resize-positions", action="store_true", help="resample position embeddings for it")
    inspect.add_argument("--sha256", help="of the file; checked before it is read")
    inspect.set_defaults(handle=_inspect)
    study = _command(
        commands, "study", "search settings by study files; `study best FILE` names the winner", _run_study
    )
    study.add_argument("words", nargs="+", metavar="[best] FILE", help="such as search/default.yaml")
    study.add_argument("--storage", help="database address or journal file; default: sqlite under .work/study")
    study.add_argument("--artifacts", metavar="FOLDER", help="of the pictures; default: .work/study/artifacts")
    what = "workers; default: one on this machine, or all of --on's"
    study.add_argument("-j", dest="workers", type=int, help=what)
    study.add_argument("--on", metavar="FILE", help="take trials on the workers that this file names")
    study.add_argument("--trial", type=int, help="with best: this trial, not the winner")
    study.add_argument("--apply", action="store_true", help="with best: run the command that is printed")
    ui = commands.add_parser("ui", help="MLflow's pages and optuna-dashboard on 127.0.0.1, until Ctrl-C")
    ui.add_argument("--storage", help="of the studies; default: sqlite under .work/study")
    ui.add_argument("--artifacts", metavar="FOLDER", help="of the pictures; default: .work/study/artifacts")
    ui.add_argument("--port", type=int, help="of MLflow; the dashboard's is the next; default: free ones")
    ui.set_defaults(handle=_show_pages)
    _add_doors(commands)
    tracking = commands.add_parser("tracking", help="send recorded runs to MLflow", allow_abbrev=False)
    verbs = tracking.add_subparsers(metavar="VERB", required=True)
    verbs.add_parser("sync", help="send what could not be sent before").set_defaults(handle=_sync)
    return parser


_A_MODEL = "a row's name, a stored model's folder or a checkpoint file"


def _add_export(export: argparse.ArgumentParser) -> None:
    """Any model into any folder; with --model alone it is the stage, as `exports` of params.yaml has it."""
    export.set_defaults(handle=_export)
    export.add_argument("which", nargs="?", default="", metavar="MODEL", help=_A_MODEL)
    export.add_argument("--to", default="", metavar="FOLDER", help="new, or empty")
    formats = "of timm, pt2, onnx; default: timm,pt2"
    export.add_argument("--formats", default="", metavar="LIST", help=formats)
    export.add_argument("--licence", default="", help="of the weights, for the card; default: unknown")
    head = "a classifier for `predict`, fitted to the experiment's images: logistic or finetune"
    export.add_argument("--head", default="", metavar="KIND", help=head)


def _add_doors(commands: Any) -> None:
    """What goes in and out: a model for other programs, a model asked about photos."""
    what = _A_MODEL
    new = commands.add_parser(
        "new", help="a project that runs, from a folder of photos and a teacher", allow_abbrev=False
    )
    new.add_argument("folder", help="new, or empty")
    new.add_argument("--images", required=True, metavar="PATH", help="a folder of photos, or a list of files")
    new.add_argument(
        "--teacher", metavar="FILE", help="a checkpoint, or a timm name; default: pre-trained on the photos"
    )
    new.add_argument("--student", default="vit_tiny", metavar="SIZE", help="a named size; default: %(default)s")
    new.add_argument("--no-dvc", dest="dvc", action="store_false", help="leave git and DVC alone")
    new.set_defaults(handle=_new)
    register = _command(commands, "register", "models in MLflow's registry, ready for `mlflow models serve`", _register)
    register.add_argument("models", nargs="*", metavar="MODEL", help="default: the teacher and every row")
    best = "figure by which a row gets the alias `best`, such as knn_top1; default: the first that was measured"
    register.add_argument("--by", default="", metavar="FIGURE", help=best)
    register.add_argument("--licence", default="unknown", help="of the weights, for the cards; default: %(default)s")
    embed = _command(commands, "embed", "features of any folder of images, by name, as a file", _embed)
    embed.add_argument("images", help="a folder, or one image")
    embed.add_argument("--model", required=True, help=what)
    embed.add_argument("--to", required=True, metavar="FILE", help=".npz or .parquet")
    predict = _command(commands, "predict", "classes of any folder of images, by an exported classifier", _predict)
    predict.add_argument("images", help="a folder, or one image")
    predict.add_argument("--model", required=True, metavar="FOLDER", help="of `export MODEL --head logistic`")
    predict.add_argument("--to", metavar="FILE", help=".csv; default: printed")
    near = _command(commands, "neighbours", "the photos of a folder that are nearest to one, as a picture", _neighbours)
    near.add_argument("image", help="one image")
    near.add_argument("--model", required=True, help=what)
    near.add_argument("--among", required=True, metavar="FOLDER", help="of images")
    near.add_argument("--to", required=True, metavar="FILE", help=".png")
    near.add_argument("--count", type=_count, default=9, help="how many; default: %(default)s")


def _command(commands: Any, name: str, summary: str, handle: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=_SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--experiment", default=".", metavar="FOLDER", help="default: this one")
    command.set_defaults(handle=handle, item="", data="")
    return command


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run", action="store_true", help="say what it would read and cost; run and write nothing"
    )
    for option, what in (("images", "training images"), ("test-images", "test images"), ("classes", "classes")):
        command.add_argument(f"--{option}", type=_count, metavar="N", help=f"dry run: {what}, where not prepared yet")
    help_ = "dry run: sustained TFLOP/s of another machine (a data-centre GPU: 100); default: this one, measured"
    command.add_argument("--tflops", type=_amount, metavar="X", help=help_)


def _amount(text: str) -> float:
    """A number above 0, which neither nan nor infinity is."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number above 0")
    return value


def _count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number above 0")
    return int(text)


def _dry_run(options: argparse.Namespace, overrides: dict[str, Any], chosen: Any) -> int:
    from attndistill.costs.dry_run import Plan, dry_run

    plan = Plan(options.images, options.test_images, options.classes, options.tflops)
    return dry_run(_open(options), chosen, overrides, plan)


def _without_settings(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Words, and settings: ["x", "--a.b", "1", "--c.d=x"] -> ["x"], {"a.b": 1, "c.d": "x"}; values are YAML.

    argparse would take the value of a setting for a word wherever a command takes words.
    """
    words: list[str] = []
    found: dict[str, Any] = {}
    remaining = iter(arguments)
    for word in remaining:
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or ("." not in name and name not in ("seeds", "teacher_seed")):
            words.append(word)
            continue
        value = text if equals else next(remaining, None)
        if value is None:
            raise ValueError(f"--{name} needs a value")
        found[name] = _yaml_value(name, value)
    return words, found


def _yaml_value(name: str, text: str) -> Any:
    from attndistill.core.plain_yaml import plain_yaml

    try:
        return plain_yaml(text, f"--{name}")
    except ValueError as error:
        raise ValueError(f"--{name}: {shown(text, 80)!r} is not a YAML value ({error})") from None


def _open(options: argparse.Namespace) -> Any:
    from pathlib import Path

    from attndistill.experiments import open_experiment

    return open_experiment(Path(options.experiment))


def _run_stage(options: argparse.Namespace, overrides: dict[str, Any]) -> int | None:
    from attndistill.pipeline import check_item, run_stage
    from attndistill.stages import Item

    item = Item(options.item, options.data)
    _note_unread(options, item, overrides)
    if options.dry_run:
        check_item(_open(options), options.stage, item, overrides)
        return _dry_run(options, overrides, [(options.stage, item)])
    run_stage(_open(options), options.stage, item, overrides)
    return None


def _note_unread(options: argparse.Namespace, item: Any, overrides: dict[str, Any]) -> None:
    """A setting that changes nothing here is no error (the whole configuration must fit together), but no secret."""
    read = (*options.stage.sections(item), "runtime")
    for key in overrides:
        if not any(key == section or key.startswith(f"{section}.") for section in read):
            text = f"--{key} changes nothing here: {options.stage.name} reads {', '.join(read)}"
            print(f"attndistill: note: {text}", file=sys.stderr)


def _run_pipeline(options: argparse.Namespace, overrides: dict[str, Any]) -> int | None:
    from attndistill.pipeline import every_stage, run_pipeline

    if options.dry_run:
        return _dry_run(options, overrides, every_stage(_open(options), overrides))
    if options.on:
        from attndistill.engine.driver import run_pipeline_on

        run_pipeline_on(_open(options), overrides, options.on)
        return None
    run_pipeline(_open(options), overrides)
    return None


def _show_status(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from pathlib import Path

    from attndistill.engine.driver import show_status

    if overrides:
        raise ValueError("status takes no settings")
    return show_status(Path(options.experiment))


def _run_study(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from attndistill.study.adopt import show_best
    from attndistill.study.commands import run_studies

    experiment = _open(options)
    if options.words[0] == "best":
        if len(options.words) != 2:
            raise ValueError("study best takes one study file")
        return show_best(
            options.words[1],
            experiment,
            overrides,
            storage=options.storage,
            number=options.trial,
            apply=options.apply,
        )
    if options.apply or options.trial is not None:
        raise ValueError("--apply and --trial belong to `study best FILE`")
    run_studies(
        options.words,
        experiment,
        overrides,
        storage=options.storage,
        artifacts=options.artifacts,
        workers=options.workers,
        on=options.on or None,
    )
    return 0


def _show_pages(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    if overrides:
        raise ValueError("ui takes no settings")
    from attndistill.study.ui import show_pages

    return show_pages(_project(), options.storage, options.artifacts, options.port)


def _show_sizes(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from attndistill.models.sizes import PRESETS, describe

    config = _open(options).config("", overrides)
    named = {name: {**sizes, "patch_size": 16, "position": "learnable"} for name, sizes in PRESETS.items()}
    for name, sizes in {"teacher": config.teacher.sizes(), "student": config.student.plain()}.items():
        print(f"{name:18} {describe(config.views.image_size, sizes)}")
    for name, sizes in named.items():
        print(f"{name:18} {describe(224, sizes)}")


def _inspect(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    if overrides:
        raise ValueError("inspect takes no settings")
    from pathlib import Path

    from attndistill.models.teachers.loading import Wanted, load_teacher

    path = Path(options.path)
    names = ("format", "half", "weights", "timm_name", "num_heads", "sha256", "image_size", "resize_positions")
    loaded = load_teacher(path, Wanted(**{name: getattr(options, name) for name in names}))
    print("\n".join(loaded.report.lines()))


def _export(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    given = {"MODEL": options.which, "--to": options.to, "--formats": options.formats}
    given |= {"--licence": options.licence, "--head": options.head}
    if options.item:
        if extra := next((name for name, value in given.items() if value), None):
            raise ValueError(f"{extra} beside --model, which is the stage; allowed: `exports` of params.yaml")
        _run_stage(options, overrides)
        return
    if not options.which or not options.to or options.dry_run:
        raise ValueError("export takes a MODEL and --to FOLDER; or --model NAME alone, which is the stage")
    from attndistill.handover.exporting import export

    asked: dict[str, Any] = {"formats": options.formats.split(",")} if options.formats else {}
    asked |= {"licence": options.licence} if options.licence else {}
    to = export(
        options.which, options.to, settings=overrides, experiment=options.experiment, head=options.head, **asked
    )
    names = ", ".join(sorted(path.name for path in to.iterdir()))
    say(f"{to}: {names}; timm.create_model('local-dir:{to}', pretrained=True) opens it")


def _register(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from pathlib import Path

    from attndistill.handover.registering import register

    folder = Path(options.experiment)
    done = register(options.models, folder, by=options.by, licence=options.licence, settings=overrides)
    for name, version in done.versions.items():
        say(f"models:/{done.experiment}/{version}  {name}")
    if done.best:
        say(f"models:/{done.experiment}@best is {done.best} ({done.why})")


def _new(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from pathlib import Path

    from attndistill.projects import new_project

    if overrides:
        raise ValueError("new takes no settings: change the project's params.yaml")

    def cost(experiment: Any, images: int, held_out: int) -> str:
        from attndistill.costs.dry_run import Plan, cost_here

        return cost_here(experiment, Plan(images, held_out, 1, None))

    folder, images = Path(options.folder), Path(options.images)
    asked = {"teacher": options.teacher, "student": options.student, "dvc": options.dvc}
    for line in new_project(folder, images, **asked, cost=cost):
        say(line)


def _embed(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from pathlib import Path

    from attndistill.handover.photos import embed_photos

    images, to, experiment = Path(options.images), Path(options.to), Path(options.experiment)
    count = embed_photos(images, options.model, to, experiment=experiment, settings=overrides)
    say(f"{options.to}: features of {count} images")


def _predict(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from pathlib import Path

    from attndistill.handover.classifying import predict_photos

    to = Path(options.to) if options.to else None
    count, text = predict_photos(Path(options.images), Path(options.model), to, overrides)
    if to is None:
        print(text, end="")
    else:
        say(f"{to}: classes of {count} images")


def _neighbours(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from pathlib import Path

    from attndistill.handover.photos import nearest_photos

    image, among, to = Path(options.image), Path(options.among), Path(options.to)
    experiment, count = Path(options.experiment), options.count
    for name, cosine in nearest_photos(
        image, options.model, among, to, count=count, experiment=experiment, settings=overrides
    ):
        say(f"{cosine:.3f}  {shown(name)}")


def _write_drivers(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from pathlib import Path

    from attndistill.drivers import write_drivers

    if overrides:
        raise ValueError("drivers takes no settings: they belong into the experiment's params.yaml")
    for path in write_drivers(Path(options.experiment)):
        print(f"{os.path.relpath(path)} is as the stages declare it")


def _write_lock(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from pathlib import Path

    from attndistill.drivers import write_lock
    from attndistill.experiments import open_experiment

    if overrides:
        raise ValueError("code takes no settings")
    write_lock(open_experiment(Path(options.experiment)))


def _compare(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    import shutil

    from attndistill.compare import WIDTH, compare

    if overrides:
        raise ValueError("compare takes no settings")
    for line in compare(_open(options), shutil.get_terminal_size((WIDTH, 24)).columns):
        say(line)


def _verify(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from pathlib import Path

    from attndistill.reproduction.verification import verify

    if overrides:
        raise ValueError("verify takes no settings")
    return verify(Path(options.experiment) if options.experiment else None)


def _rebuild(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from attndistill.reproduction.rebuilding import rebuild

    if overrides:
        raise ValueError("rebuild takes no settings: it runs with those of the figure")
    return rebuild(options.reference, environment=options.environment, dry_run=options.dry_run)


def _trace(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from pathlib import Path

    from attndistill.reproduction.tracing import trace

    if overrides:
        raise ValueError("trace takes no settings")
    return trace(options.figure, options.column, Path(options.experiment))


def _show_config(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from ruamel.yaml import YAML

    experiment = _open(options)
    if options.item and options.item not in experiment.rows:
        raise ValueError(f"unknown row {options.item!r}; allowed: {', '.join(experiment.rows)}")
    config = experiment.config(options.item, overrides)
    experiment.check_rows(overrides)
    YAML().dump(config.plain(), sys.stdout)


def _sync(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    if overrides:
        raise ValueError("tracking sync takes no settings")
    from attndistill.tracking import print_sync

    return print_sync(_project())


def _project() -> Any:
    """The folder with the tracking store: of the experiment here, else this one."""
    from pathlib import Path

    from attndistill.core.places import project_folder

    return project_folder(Path.cwd())

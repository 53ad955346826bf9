"""The command line answers and refuses before anything heavy is imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shipped import with_shipped_rows

from attndistill import cli

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "timm", "sklearn", "scipy", "matplotlib", "mlflow", "accelerate", "torchvision")
PROBE = """
import json, sys
from attndistill.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as ending:
    code = ending.code
print("\\n" + json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def attndistill(*arguments: str) -> tuple[int, set[str], str, str]:
    """(exit code, imported top-level modules, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    output, _, last = done.stdout.rstrip("\n").rpartition("\n")
    code, modules = json.loads(last)
    return code, set(modules), output, done.stderr


def test_a_python_without_our_libraries_is_told_in_one_line():
    words = [sys.executable, "-S", "-m", "attndistill", "config"]  # -S: no site-packages
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"is not installed for {sys.executable}; the environment that `make repro` sets up" in done.stderr


def test_help_imports_nothing_heavy_and_names_every_stage():
    code, modules, output, _ = attndistill("--help")
    assert code == 0
    assert not modules & {*HEAVY, "numpy", "pydantic", "ruamel"}
    assert all(name in output for name in ("prepare", "pretrain", "targets", "distill", "probe", "attention", "report"))


def test_the_resolved_configuration_is_printed_without_anything_heavy():
    code, modules, output, errors = attndistill(
        "config", "--row", "projector_alignment", "--student.embed_dim", "60", "--student.depth=2"
    )
    assert (code, errors) == (0, "")
    assert not modules & set(HEAVY)
    assert "  lambda: 0.0\n" in output
    assert "  extra: []\n  precision: fp32\n" in output  # left out of digests, and shown
    assert "student:\n  embed_dim: 60\n  depth: 2\n" in output


def test_sizes_are_counted_without_anything_heavy():
    code, modules, output, errors = attndistill("sizes", "--student.preset", "vit_tiny", "--views.image_size", "224")
    assert (code, errors) == (0, "")
    assert not modules & set(HEAVY)
    assert (
        "student            width 192, depth 12, 3 heads, patch 8, 224 px: 785 tokens, 5,526,720 parameters" in output
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["distill", "--row", "attndistill", "--student.embed_dim=48", "--student.num_heads", "5"],
            "student: embed_dim 48 is not a multiple of num_heads 5",
        ),
        (
            ["distill", "--row", "attn"],
            "distill: unknown row 'attn'; allowed: projector_alignment, attndistill",
        ),
        (
            ["config", "--experiment", "experiments/none"],
            "experiments/none has no rows.yaml: run this in an experiment's folder, or name one by --experiment",
        ),
    ],
)
def test_a_refusal_is_one_line_exit_code_2_and_imports_nothing_heavy(arguments, message):
    code, modules, _, errors = attndistill(*arguments)
    assert (code, errors) == (2, f"attndistill: {message}\n")
    assert not modules & set(HEAVY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "words"], "unknown argument 'words'; settings are given as --section.key value"),
        (["config", "--student", "3"], "unknown argument '--student'; settings are given as --section.key value"),
        (["config", "--student.depth"], "--student.depth needs a value"),
        (["config", "--student.depth", "[1"], "--student.depth: '[1' is not a YAML value"),
        (
            ["config", "--student.preset", "[1]"],
            "student.preset: [1]; allowed: vit_tiny, vit_tiny_8_layers, vit_tiny_6_heads, vit_small, vit_base",
        ),
        (["config", "--row", "attn"], "unknown row 'attn'; allowed: projector_alignment, attndistill"),
        (["tracking", "sync", "--a.b", "1"], "tracking sync takes no settings"),
        (["distill"], "the following arguments are required: --row (see attndistill distill --help)"),
        (["study", "--distill.lambda", "0.3", "none.yaml"], "none.yaml does not exist"),
        (
            ["study", "--distill.lambda", "0.3"],
            "the following arguments are required: [best] FILE (see attndistill study",
        ),
        (
            ["prepare", "--dry-run", "--tflops", "nan"],
            "argument --tflops: 'nan'; allowed: a number above 0 (see attndist",
        ),
        (
            ["prepare", "--dry-run", "--tflops", "much"],
            "argument --tflops: 'much'; allowed: a number above 0 (see attndi",
        ),
        (
            ["inspect", "experiments"],
            "experiments is no folder of a model: none of model.json, ",
        ),
    ],
)
def test_a_word_that_is_no_setting_is_refused_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"attndistill: {message}")
    assert told.count("\n") == 1


def test_a_setting_that_the_stage_does_not_read_is_said_to_change_nothing(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    cli.main(["report", "--experiment", "experiments/none", "--teacher.depth", "4", "--probe.projector_layer", "1"])
    cli.main(["distill", "--row", "none", "--teacher.depth", "3", "--runtime.threads", "1"])
    notes = [line for line in capsys.readouterr().err.splitlines() if "note:" in line]
    assert notes == [
        "attndistill: note: --probe.projector_layer changes nothing here: report reads seeds, views, teacher, student, "
        "pretrain, targets, distill, runtime",
        "attndistill: note: --teacher.depth changes nothing here: distill reads seeds, teacher_seed, views, student, "
        "targets, distill, runtime",
    ]


def test_a_reader_that_stops_early_gets_no_traceback():
    command = f"{sys.executable} -m attndistill config | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "seeds:\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotADirectoryError(20, "Not a directory", "outputs/digits"), "outputs/digits: Not a directory"),
        (OSError("1000 requested and 200 written"), "1000 requested and 200 written"),
        (ChildProcessError("the process working on 7 was ended"), "the process working on 7 was ended"),
        (FloatingPointError("loss is nan at step 3"), "loss is nan at step 3"),
        (AssertionError("cls_token.npy: entry 3"), "a check of the program itself failed: cls_token.npy: entry 3"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_fails_says_so_in_one_line_with_exit_code_1(error, message, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("attndistill.cli._show_config", fail)
    assert cli.main(["config"]) == 1
    assert capsys.readouterr().err == f"attndistill: {message}\n"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of one experiment, the digits."""
    shutil.copy(ROOT / "params.yaml", with_shipped_rows(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_outputs_folder_that_is_a_file_is_named(project, capsys):
    (project / "outputs").touch()
    assert cli.main(["prepare", "--runtime.tracking", "false"]) == 1
    assert f"attndistill: {project}/outputs" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["config"], ["prepare"], ["distill", "--row", "attndistill"], ["pipeline"]])
def test_a_row_that_could_never_run_stops_every_command_before_it_costs(project, arguments, capsys):
    rows = project / "rows.yaml"
    rows.write_text(rows.read_text() + "\n  late:\n    label: Late\n    set: {distill.lamda: 1.0}\n")
    assert cli.main(arguments) == 2
    assert "distill.lamda: unknown key (given 1.0)" in capsys.readouterr().err
    assert not (project / "outputs").exists()


def test_a_row_that_only_the_command_line_makes_impossible_stops_no_other(project, capsys):
    """`distill --row attndistill --distill.alignment_weight 0` is possible; projector_alignment has lambda 0."""
    assert cli.main(["config", "--row", "attndistill", "--distill.alignment_weight", "0.0"]) == 0

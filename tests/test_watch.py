"""What a stage's code is: computed from imports, held against what a real run imports, and blind to words."""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attndistill.stages import STAGES, code

ROOT = Path(__file__).parents[1]
# what stands around every stage: it resolves, records, checks, draws progress or declares
AROUND = ("cli", "__main__", "experiments", "pipeline", "tracking", "stages", "costs", "drivers", "lock_order")


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = [module_of(path) for path in sorted((ROOT / "attndistill").rglob("*.py"))]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("project") / "smoke"


SMALL = ["--seeds", "[0]", "--runtime.tracking", "false", "--runtime.processes", "1"]


@pytest.fixture(scope="module")
def loaded(project) -> dict[str, set[str]]:
    """Stage -> modules of ours that a process has imported when it has run the stage at toy size."""
    shutil.copytree(ROOT / "experiments/smoke", project, ignore=shutil.ignore_patterns("outputs", "results"))
    found: dict[str, set[str]] = {}
    words = [
        ["prepare"],
        ["pretrain", "--model", "teacher"],
        ["targets"],
        ["distill", "--row", "attndistill"],
        ["probe", "--model", "attndistill"],
        *(["attention", "--model", name] for name in ("teacher", "attndistill")),
        ["report"],
    ]
    rows = project / "rows.yaml"
    rows.write_text("rows:\n  attndistill: {label: AttnDistill, set: {}}\n")
    # what only refuses decides no figure, whatever it imports
    program = (
        "import json, sys; from attndistill.core.later import import_later; import_later();"
        "from attndistill.cli import main; from attndistill.stages import soundness, sufficiency;"
        "soundness.check_inputs = sufficiency.check_sufficient = lambda *_, **__: None; code = main(sys.argv[1:]);"
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] in ('attndistill', 'sympy')])); sys.exit(code)"
    )
    for command in words:
        done = subprocess.run(
            [sys.executable, "-c", program, *command, *SMALL], cwd=project, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.setdefault(command[0], set()).update(json.loads(done.stdout.splitlines()[-1]))
    return found


@pytest.mark.drivers
def test_no_module_that_a_run_imports_and_computes_with_can_change_unseen(loaded):
    carried = set(code.computed_with("attndistill.runs"))  # a Context takes the type `Execution` from there
    # what every process of ours starts with; they compute nothing
    carried |= {"attndistill.core.later", "attndistill.core.process"}
    for name, modules in loaded.items():
        watched = set(code.computed_with(STAGES[name].module)) | code.CARRIERS | carried
        unseen = [
            module
            for module in sorted(modules - watched)
            if module.startswith("attndistill.")
            and module.split(".")[1] not in AROUND
            and not _is_registry_of_settings(module)
        ]
        assert unseen == [], f"{name} imports these and does not watch them"


@pytest.mark.drivers
def test_no_stage_imports_the_symbolic_algebra_of_torch(loaded):
    """torch asks for it to fill weights on its meta device, and takes a second for that (`models.weightless`)."""
    assert [name for name, modules in loaded.items() if "sympy" in modules] == []


@pytest.mark.drivers
@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("stage", ["prepare", "report"])
def test_preparing_and_reporting_import_no_torch_timm_or_scikit_learn(project, stage):
    program = (
        "import sys; from attndistill.cli import main; code = main(sys.argv[1:]);"
        "print(code, sorted({'torch', 'timm', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    words = [stage, *SMALL, "--runtime.speeds", "false"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=project, text=True, capture_output=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def _is_registry_of_settings(module: str) -> bool:
    """What the configuration reads for names and options: packages and sections, not computed with."""
    return code._source(module).name == "__init__.py" or module in (
        "attndistill.losses.fields",
        "attndistill.training.recipe",
        "attndistill.config.transfer",  # a dep of the stages of data sets that name a preset (drivers._from_preset)
        "attndistill.report.build",  # for the names of the report's files, which its declaration states
    )


def test_a_change_in_a_module_changes_the_code_of_exactly_the_stages_that_compute_with_it(monkeypatch):
    watched = {name: set(code.computed_with(stage.module)) for name, stage in STAGES.items()}
    before = {name: code.code_digest(stage.module) for name, stage in STAGES.items()}
    real = code._digest_of_file
    for module in MODULES:
        edited = code._source(module)
        monkeypatch.setattr(code, "_digest_of_file", lambda path, edited=edited: real(path) + "x" * (path == edited))
        stale = {name for name, stage in STAGES.items() if code.code_digest(stage.module) != before[name]}
        assert stale == {name for name in STAGES if module in watched[name]}, module


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("attndistill.training.recipe", {"pretrain", "distill", "probe", "export"}),  # base x batch / 256
        ("attndistill.models.sizes", set(STAGES)),  # the named sizes
        ("attndistill.config.layers", set(STAGES)),  # overlays
        ("attndistill.data.views", set(STAGES) - {"fetch", "prepare", "report"}),
        ("attndistill.losses.guidance", {"distill", "export"}),
        ("attndistill.core.progress", set()),
        ("attndistill.core.randomness", set(STAGES) - {"fetch"}),
        ("attndistill.evaluations.classifiers", {"pretrain", "distill", "probe", "export"}),
        ("attndistill.models.mae", {"pretrain"}),
        ("attndistill.report.page", {"report"}),
    ],
)
def test_a_formula_is_watched_by_these_stages(module, stages):
    assert {name for name in STAGES if module in code.computed_with(STAGES[name].module)} == stages


def test_carriers_do_no_arithmetic():
    """Settings and paths pass through them; whatever computes a figure from those has its place elsewhere."""
    carriers = {name for name in code.CARRIERS if name.startswith(("attndistill.config", "attndistill.stages"))}
    for module in carriers - {
        "attndistill.config.fitting",
        "attndistill.config.schema",
        "attndistill.stages.outside",  # which refuse
    }:
        for node in ast.walk(ast.parse(code._source(module).read_text())):
            if isinstance(node, ast.BinOp):
                assert not isinstance(node.op, ast.Mult | ast.Pow | ast.Mod | ast.FloorDiv | ast.Sub), (
                    f"{module}:{node.lineno} computes: {ast.unparse(node)}"
                )


SOURCE = '''"""A docstring."""
LIMIT = 3  # a comment


def refuse(value):
    """Another."""
    assert value, "a message"
    if value > LIMIT:
        print("a note")
        raise ValueError(f"{value} is too much")
    return value * 2
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A docstring.", "Other words."),
        ("# a comment", "# another comment"),
        ('"""Another."""', '"""Yet\n    another."""'),
        ("a message", "another message"),
        ("a note", "another note"),
        ("is too much", "is more than is allowed"),
        ("return value * 2", "return (\n        value * 2\n    )"),
    ],
)
def test_words_and_layout_are_no_code(old, new):
    assert old in SOURCE
    assert code.same_code(SOURCE, SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("value * 2", "value * 3"),
        ("value > LIMIT", "value >= LIMIT"),
        ("ValueError", "OSError"),
    ],
)
def test_what_can_change_a_figure_is_other_code(old, new):
    assert old in SOURCE
    assert not code.same_code(SOURCE, SOURCE.replace(old, new))


def test_a_digest_is_the_same_under_every_python():
    """Else whoever has another Python than the committed lock would train every student again."""
    odd = "match LIMIT:\n    case [1, *_]: f'{LIMIT:<{LIMIT}}{LIMIT!r:}'\nasync def g(*, a=None, **_): yield a\n"
    assert hashlib.sha256(code._written(code._speechless(SOURCE + odd)).encode()).hexdigest()[:16] == "879d56646def1106"


def test_text_that_does_not_parse_is_never_the_same_code():
    assert not code.same_code("def f(:", "def f(:")

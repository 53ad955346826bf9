"""The import law of docs/architecture.md, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "attndistill"
ROWS = [
    {"core"},
    {"data", "models", "losses", "training"},
    {"tasks"},
    {"runs", "targets", "figures", "evaluations", "results", "exhibits", "outcomes"},
    {"distillation", "pretraining"},
    {"config", "report", "stages", "tracking"},
    {"pipeline", "experiments", "lock_order", "drivers", "compare"},
    {"costs", "library", "handover", "projects", "reproduction", "engine"},
    {"cli", "study", "__main__"},
]
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}
ARROWS = {
    ("evaluations", "runs"),
    ("results", "evaluations"),
    ("exhibits", "results"),
    ("outcomes", "results"),
    ("outcomes", "evaluations"),
    ("exhibits", "evaluations"),
    ("stages", "config"),
    ("stages", "report"),
    ("stages", "handover"),  # of the stage `export`
    ("report", "config"),
    ("pipeline", "experiments"),
    ("pipeline", "lock_order"),
    ("pipeline", "drivers"),
    ("drivers", "experiments"),
    ("handover", "library"),
    ("compare", "experiments"),
    ("__main__", "cli"),
    ("cli", "study"),
}
# narrower than their row allows
ONLY = {
    "report": {"core", "figures", "results", "exhibits", "evaluations", "outcomes", "config"},
    "tracking": {"core"},
    "config": {"core", "evaluations", "losses", "models", "training", "data"},
}
# what the configuration reads for names and options: they declare, and import nothing heavy
LIGHT = {
    "attndistill.data",
    "attndistill.evaluations",
    "attndistill.losses",
    "attndistill.losses.fields",
    "attndistill.models.sizes",
    "attndistill.models.teachers",
    "attndistill.training",
    "attndistill.training.recipe",
}


def imports() -> Iterator[tuple[Path, str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        unit = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in _nodes(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative imports hide where they go"
                names = [node.module] if node.module != "attndistill" else [f"attndistill.{a.name}" for a in node.names]
                yield from ((path, unit, str(name)) for name in names)
            elif isinstance(node, ast.Import):
                yield from ((path, unit, alias.name) for alias in node.names)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All but what is imported for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from _nodes(node)


def test_every_part_of_the_package_has_a_place_in_the_picture():
    units = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert units - {"__init__"} == set(ROW_OF)


def test_imports_go_down_the_picture_only():
    broken = []
    for path, unit, module in imports():
        parts = module.split(".")
        if parts[0] != "attndistill" or len(parts) == 1 or unit in (parts[1], "__init__") or parts[1].startswith("__"):
            continue
        below = ROW_OF[parts[1]] < ROW_OF[unit] and parts[1] in ONLY.get(unit, ROW_OF)
        if unit == "config" and parts[1] not in ("core", "config") and module not in LIGHT:
            broken.append(f"{path.relative_to(PACKAGE)} imports {module}")
        if not (below or (unit, parts[1]) in ARROWS):
            broken.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert broken == []


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("mlflow", {"tracking"}),
        ("dvc", set()),
        ("optuna", {"study"}),
        ("optuna_dashboard", {"study"}),
        ("parsl", {"engine"}),
    ],
)
def test_drivers_are_imported_by_their_owner_alone(library, owners):
    assert {unit for _, unit, module in imports() if module.split(".")[0] == library} == owners


def test_what_the_configuration_reads_of_others_is_light():
    program = "import sys, attndistill.config; print(sorted(set(sys.modules) & {'torch', 'timm', 'sklearn', 'scipy'}))"
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert done.stdout == "[]\n"

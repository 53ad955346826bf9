"""The import law of docs/architecture.md, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "attndistill"
ROWS = [
    {"core"},
    {"data", "models", "losses", "training"},
    {"tasks"},
    {"probes", "targets", "figures"},
    {"config", "report", "stages", "tracking"},
    {"pipeline", "experiments", "dvc_pipeline", "dry_run"},
    {"cli", "study", "__main__"},
]
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}
ARROWS = {
    ("stages", "config"),
    ("stages", "report"),
    ("pipeline", "experiments"),
    ("dry_run", "experiments"),
    ("dvc_pipeline", "experiments"),
    ("__main__", "cli"),
    ("cli", "study"),
}
ONLY = {"report": {"core", "figures"}, "tracking": {"core"}, "config": {"core"}}  # narrower than their row allows
REGISTRIES = {
    "attndistill.data",
    "attndistill.losses",
    "attndistill.models.teachers",
    "attndistill.evaluations",
    "attndistill.training",
}


def imports() -> Iterator[tuple[Path, str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        unit = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative imports hide where they go"
                names = [node.module] if node.module != "attndistill" else [f"attndistill.{a.name}" for a in node.names]
                yield from ((path, unit, str(name)) for name in names)
            elif isinstance(node, ast.Import):
                yield from ((path, unit, alias.name) for alias in node.names)


def test_every_part_of_the_package_has_a_place_in_the_picture():
    units = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert units - {"__init__"} == set(ROW_OF)


def test_imports_go_down_the_picture_only():
    broken = []
    for path, unit, module in imports():
        parts = module.split(".")
        if parts[0] != "attndistill" or len(parts) == 1 or unit == parts[1] or module == "attndistill.__version__":
            continue
        below = ROW_OF[parts[1]] < ROW_OF[unit] and parts[1] in ONLY.get(unit, ROW_OF)
        registry = unit == "config" and module in REGISTRIES
        if not (below or registry or (unit, parts[1]) in ARROWS):
            broken.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert broken == []


@pytest.mark.parametrize(
    ("library", "owners"),
    [("mlflow", {"tracking"}), ("dvc", set()), ("optuna", {"study"}), ("optuna_dashboard", {"study"})],
)
def test_drivers_are_imported_by_their_owner_alone(library, owners):
    assert {unit for _, unit, module in imports() if module.split(".")[0] == library} == owners


def test_registries_that_the_configuration_reads_are_light():
    """Their packages' __init__ declares a Registry and imports nothing else of ours."""
    inits = {f"attndistill/{package.rpartition('.')[2]}/__init__.py" for package in REGISTRIES}
    found = {module for path, _, module in imports() if path.relative_to(PACKAGE.parent).as_posix() in inits}
    assert found == {"typing", "attndistill.core.registry"}

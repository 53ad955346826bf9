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
    {"pipeline", "experiments"},
    {"cli", "__main__"},
]
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}
ARROWS = {("stages", "config"), ("stages", "report"), ("pipeline", "experiments"), ("__main__", "cli")}
REGISTRIES = {"attndistill.data", "attndistill.losses", "attndistill.probes", "attndistill.training"}


def imports() -> Iterator[tuple[Path, str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        unit = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield path, unit, node.module
            elif isinstance(node, ast.Import):
                yield from ((path, unit, alias.name) for alias in node.names)


def test_every_part_of_the_package_has_a_place_in_the_picture():
    units = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert units - {"__init__"} == set(ROW_OF)


def test_imports_go_down_the_picture_only():
    broken = []
    for path, unit, module in imports():
        parts = module.split(".")
        if parts[0] != "attndistill" or len(parts) == 1 or unit == parts[1] or unit == "__init__":
            continue
        registry_only = unit == "config" and module in REGISTRIES
        if not (ROW_OF[parts[1]] < ROW_OF[unit] or (unit, parts[1]) in ARROWS or registry_only):
            broken.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert broken == []


@pytest.mark.parametrize(("library", "owner"), [("mlflow", "tracking"), ("dvc", None), ("optuna", None)])
def test_drivers_are_imported_by_their_owner_alone(library, owner):
    users = {unit for _, unit, module in imports() if module.split(".")[0] == library}
    assert users <= {owner}

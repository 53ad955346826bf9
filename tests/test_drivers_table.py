"""dvc.yaml against the table of stages, and each DVC stage against what its module imports."""

import ast
import shutil
from pathlib import Path

import pytest

from attndistill.config import read_yaml
from attndistill.dvc_pipeline import derive_dvc_file, write_dvc_file
from attndistill.stages.code import PLUMBING, computed_with
from attndistill.stages.layout import MODELS, Layout
from attndistill.stages.table import STAGES

ROOT = Path(__file__).parents[1]
ROWS = read_yaml(ROOT / "experiments/digits/rows.yaml")["rows"]
LAYOUT = Layout(Path(), "digits")
CASES = [(stage.name, item) for stage in STAGES.values() for item in stage.items(tuple(ROWS))]


@pytest.fixture(scope="module")
def dvc_stages() -> dict:
    from dvc.repo import Repo

    return {stage.cmd: stage for stage in Repo(str(ROOT)).index.stages if stage.path == str(ROOT / "dvc.yaml")}


def stage_of(dvc_stages: dict, name: str, item: str):
    option = {"row": " --row ", "pretrained": " --model ", "model": " --model "}.get(STAGES[name].item, "")
    return dvc_stages[f"python -m attndistill {name}{option}{item}"]


def test_dvc_has_these_stages_and_no_others(dvc_stages):
    assert len(dvc_stages) == len(CASES)


@pytest.mark.parametrize(("name", "item"), CASES)
def test_a_dvc_stage_reads_writes_and_depends_on_what_the_table_says(dvc_stages, name, item):
    dvc_stage, stage = stage_of(dvc_stages, name, item), STAGES[name]
    paths = [dep.def_path for dep in dvc_stage.deps if type(dep).__name__ != "ParamsDependency"]
    inputs = {path for path in paths if not path.startswith("attndistill/")}
    wanted = {str(path) for path in stage.inputs(LAYOUT, item)}
    if name == "attention" and item in MODELS:  # one foreach for both: DVC takes no path twice
        wanted = {"outputs/digits/data", "outputs/digits/pretrained"}
    assert inputs == wanted
    assert {out.def_path for out in dvc_stage.outs} == {str(path) for path in stage.outputs(LAYOUT, item)}


@pytest.mark.parametrize(("name", "item"), CASES)
def test_a_dvc_stage_watches_the_settings_it_reads_and_its_row(dvc_stages, name, item):
    watched: dict[str, set[str]] = {}
    for dep in stage_of(dvc_stages, name, item).deps:
        if type(dep).__name__ == "ParamsDependency":
            watched.setdefault(Path(dep.def_path).name, set()).update(dep.params)
    assert watched.pop("params.yaml") == set(STAGES[name].sections(item))
    rows = {"report": {"rows.yaml": set()}}.get(name, {"rows.yaml": {f"rows.{item}.set"}} if item in ROWS else {})
    assert watched == rows  # of the report: the whole file


def imported(module: str) -> set[str]:
    """Modules of the package that `module` imports, plumbing left out; a package stands for all that is in it."""
    path = ROOT / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("attndistill."):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in names if (ROOT / f"{name.replace('.', '/')}.py").exists()}
            found |= submodules or {node.module}
    if path.is_dir():
        found |= {f"{module}.{inner.stem}" for inner in path.glob("*.py") if inner != source}
    return found - PLUMBING


def behind(module: str) -> set[str]:
    """The module and all that it imports."""
    seen, todo = set(), {module}
    while todo:
        found = todo.pop()
        seen.add(found)
        todo |= imported(found) - seen
    return seen


def covers(dep: str, module: str) -> bool:
    """Whether a dependency (a file or folder of the package) holds `module`."""
    path = module.replace(".", "/")
    return dep in (path, f"{path}.py") or path.startswith(f"{dep}/")


@pytest.mark.parametrize(("name", "item"), CASES)
def test_no_code_a_stage_computes_with_can_change_unseen(dvc_stages, name, item):
    deps = [dep.def_path for dep in stage_of(dvc_stages, name, item).deps if dep.def_path.startswith("attndistill/")]
    modules = sorted(behind(STAGES[name].module))
    assert [module for module in modules if not any(covers(dep, module) for dep in deps)] == []
    assert [dep for dep in deps if not (ROOT / dep).exists()] == []


@pytest.mark.parametrize("name", STAGES)
def test_a_checkpoint_is_of_the_same_code_that_dvc_watches(name):
    assert set(computed_with(STAGES[name].module)) == behind(STAGES[name].module)


def test_mlflow_has_the_same_stages_with_the_same_commands():
    entries = read_yaml(ROOT / "MLproject")["entry_points"]
    option = {
        "row": " --row {row}",
        "pretrained": " --model {model}",
        "model": " --model {model}",
        "download": " --name {name}",
        "": "",
    }
    commands = {name: f"python -m attndistill {name}{option[stage.item]}" for name, stage in STAGES.items()}
    commands["pipeline"] = "python -m attndistill pipeline"
    commands["study"] = "python -m attndistill study {file}"
    commands = {name: f"{command} --experiment {{experiment}}" for name, command in commands.items()}
    commands["study"] += " -j {workers} --storage {storage}"
    assert {name: entry["command"] for name, entry in entries.items()} == commands


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(ROOT.glob("experiments/*/dvc.yaml"))])
def test_an_experiments_pipeline_is_the_defaults_with_its_own_paths_and_overlay(name):
    assert (ROOT / "experiments" / name / "dvc.yaml").read_text() == derive_dvc_file(ROOT, name)


def write_mine(root: Path, overlay: str, row: str = "{}") -> None:
    """An experiment of one row, in a project of its own."""
    mine = root / "experiments/mine"
    mine.mkdir(parents=True, exist_ok=True)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    (mine / "params.yaml").write_text(overlay)
    (mine / "rows.yaml").write_text(f"rows:\n  wide: {{label: Wide, set: {row}}}\n")


def derived_stages(root: Path) -> list:
    """What DVC reads from the experiment's derived dvc.yaml."""
    from dvc.repo import Repo

    write_dvc_file(root, "mine")
    (root / "dvc.yaml").unlink()
    return Repo.init(str(root), no_scm=True).index.stages


def test_a_derived_pipeline_has_a_stage_for_every_item_and_watches_what_the_overlay_changes(tmp_path):
    write_mine(tmp_path, "student: {depth: 2}\nruntime: {workers: 1}\n")
    watched = {}
    for stage in derived_stages(tmp_path):
        files = {Path(dep.def_path): dep.params for dep in stage.deps if type(dep).__name__ == "ParamsDependency"}
        watched[stage.cmd] = files.get(Path("experiments/mine/params.yaml"))
    end = "--experiment experiments/mine"
    assert len(watched) == sum(len(stage.items(("wide",))) for stage in STAGES.values())
    assert watched[f"python -m attndistill pretrain --model teacher {end}"] is None
    assert watched[f"python -m attndistill pretrain --model scratch {end}"] == ["student"]
    assert watched[f"python -m attndistill distill --row wide {end}"] == ["student"]


OUTSIDE = """
downloads: {dino: {url: "https://x/dino.pth", sha256: "%s", unpack: false}}
data: {set: {name: image_folder, root: outputs/mine/downloads/images, class_list: lists/classes.txt}}
teacher: {source: {name: checkpoint, path: outputs/mine/downloads/dino/dino.pth}}
probe: {labels: {list_file: lists/labels.txt}}
""" % ("0" * 64)


def test_a_derived_pipeline_depends_on_the_files_that_come_from_outside(tmp_path):
    write_mine(tmp_path, OUTSIDE, row="{probe.labels.list_file: lists/mine.txt}")
    found = {}
    for stage in derived_stages(tmp_path):
        command = stage.cmd.removeprefix("python -m attndistill ").removesuffix(" --experiment experiments/mine")
        paths = {dep.def_path for dep in stage.deps if type(dep).__name__ != "ParamsDependency"}
        found[command] = {path for path in paths if path.startswith(("lists/", "outputs/mine/downloads/"))}
    assert {command: paths for command, paths in found.items() if paths} == {
        "prepare": {"outputs/mine/downloads/images", "lists/classes.txt"},
        "pretrain --model teacher": {"outputs/mine/downloads/dino/dino.pth"},
        "probe --model teacher": {"lists/labels.txt"},
        "probe --model scratch": {"lists/labels.txt"},
        "probe --model wide": {"lists/mine.txt"},
    }
    assert "fetch --name dino" in found


@pytest.mark.parametrize(
    ("overlay", "row", "message"),
    [
        ("downloads: null", "{}", "downloads: None; allowed: a mapping"),
        ("teacher: {source: foo}", "{}", "teacher.source: 'foo'; allowed: a mapping"),
        ("seeds: [0]", "{distill.lamda: 1.0}", r"rows.wide: distill.lamda: unknown key \(given 1.0\)"),
    ],
)
def test_settings_that_no_stage_would_run_with_leave_no_dvc_file(tmp_path, overlay, row, message):
    write_mine(tmp_path, overlay, row)
    with pytest.raises(ValueError, match=f"^{message}"):
        write_dvc_file(tmp_path, "mine")
    assert not (tmp_path / "experiments/mine/dvc.yaml").exists()


def test_plots_that_dvc_shows_are_made_by_the_report(dvc_stages):
    outputs = {str(path) for path in STAGES["report"].outputs(LAYOUT, "")}
    plots = read_yaml(ROOT / "dvc.yaml")["plots"]
    assert plots
    assert all(any(plot.startswith(f"{output}/") for output in outputs) for plot in plots)

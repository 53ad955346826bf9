"""The drivers' files are what the declared stages say, for the default and for every experiment."""

import shutil
from pathlib import Path

import pytest

from attndistill.config import read_yaml
from attndistill.drivers import dvc_file, mlproject, with_table, write_drivers
from attndistill.experiments import open_experiment
from attndistill.stages import STAGES, Item
from attndistill.stages.code import watched_files
from attndistill.stages.layout import Layout

ROOT = Path(__file__).parents[1]
ROWS = tuple(read_yaml(ROOT / "rows.yaml")["rows"])
LAYOUT = Layout(ROOT, "digits")
DEFAULT = open_experiment(ROOT)
CASES = [(stage.name, item) for stage in STAGES.values() for item in DEFAULT.items(stage, DEFAULT.config("", {}))]
FOLDERS = [ROOT, *sorted(path.parent for path in ROOT.glob("experiments/*/dvc.yaml"))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_drivers_are_what_the_stages_declare(folder):
    experiment = open_experiment(folder)
    (written, plots), (wanted, curves) = (
        text.split("\nplots:\n") for text in ((folder / "dvc.yaml").read_text(), dvc_file(experiment))
    )
    assert written == wanted
    added = {f"          - {name}" for name in experiment.rows}  # a row runs before `drivers` gives it a curve
    assert [line for line in curves.splitlines() if line in plots.splitlines() or line not in added] == (
        plots.splitlines()
    )
    assert (folder / "MLproject").read_text() == mlproject(experiment)


@pytest.mark.parametrize("folder", FOLDERS[1:], ids=lambda folder: folder.name)
def test_a_shipped_experiment_is_a_dvc_project_of_its_own(folder):
    """Else `dvc status` at the top would speak of it."""
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore"):
        assert (folder / name).read_text() == (ROOT / "experiments/fashion_mnist" / name).read_text()


def test_the_readme_has_the_stages_that_there_are():
    text = (ROOT / "README.md").read_text()
    assert with_table(text) == text
    assert all(f"| {name} |" in text for name in STAGES)


@pytest.fixture(scope="module")
def dvc_stages() -> dict:
    from dvc.repo import Repo

    return {stage.cmd: stage for stage in Repo(str(ROOT)).index.stages if stage.path == str(ROOT / "dvc.yaml")}


def stage_of(dvc_stages: dict, name: str, item: Item):
    option = f" --{STAGES[name].option} {item.name}" if STAGES[name].option else ""
    return dvc_stages[f"python -m attndistill {name}{option}"]


def test_dvc_has_these_stages_and_no_others(dvc_stages):
    assert len(dvc_stages) == len(CASES) + 1  # that of the code


def test_a_stage_of_its_own_reads_every_source_file_and_writes_the_digests_that_the_others_depend_on(dvc_stages):
    code = dvc_stages["python -m attndistill code"]
    watched = {file for stage in STAGES.values() for file in watched_files(stage.module)}
    assert {dep.def_path for dep in code.deps} == watched | {"attndistill/config/transfer.py"}
    assert [(out.def_path, out.use_cache) for out in code.outs] == [("attndistill.lock", False)]


@pytest.mark.parametrize(("name", "item"), CASES)
def test_dvc_reads_a_stage_as_it_is_declared(dvc_stages, name, item):
    dvc_stage, stage = stage_of(dvc_stages, name, item), STAGES[name]
    files, params = set(), {}
    for dep in dvc_stage.deps:
        if type(dep).__name__ == "ParamsDependency":
            params.setdefault(Path(dep.def_path).name, set()).update(dep.params)
        else:
            files.add(dep.def_path)
    inputs = {path.relative_to(ROOT).as_posix() for path in stage.inputs(LAYOUT, item)}
    assert files == inputs
    outs = {out.def_path for out in dvc_stage.outs}
    assert outs == {path.relative_to(ROOT).as_posix() for path in stage.outputs(LAYOUT, item)}
    assert params.pop("params.yaml") == set(stage.sections(item))
    assert params.pop("attndistill.lock") == {f"code.{name}"}
    row = {"rows.yaml": {f"rows.{item.name}.set"}} if item.name in ROWS else {}
    assert params == ({"rows.yaml": set()} if stage.report else row)


def test_top_level_plots_and_metrics_name_no_file_inside_a_directory_out(dvc_stages):
    """DVC would look for the directory in the cache at the end of every `dvc exp run`."""
    whole = read_yaml(ROOT / "dvc.yaml")
    folders = [out.def_path for stage in dvc_stages.values() for out in stage.outs if out.use_cache]
    named = [*whole.get("metrics", []), *(name for plot in whole.get("plots", []) for name in plot)]
    assert named
    assert [name for name in named if any(name.startswith(f"{folder}/") for folder in folders)] == []


def project(root: Path, overlay: str, row: str = "{}") -> Path:
    """An experiment of one row in a folder of its own."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(overlay)
    (root / "rows.yaml").write_text(f"rows:\n  wide: {{label: Wide, set: {row}}}\n")
    return root


def derived(folder: Path) -> dict:
    write_drivers(folder)
    return read_yaml(folder / "dvc.yaml")["stages"]


def watched_of(stage: dict) -> dict:
    found: dict = {}
    for entry in stage.get("do", stage)["params"]:
        found |= entry if isinstance(entry, dict) else {"params.yaml": [entry]}
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """experiments/mine of a repository with the package at its top."""
    shutil.copytree(ROOT / "attndistill", tmp_path / "attndistill", symlinks=True)
    monkeypatch.setattr("attndistill.drivers.ROOT", tmp_path)
    return tmp_path / "experiments/mine"


def test_an_experiment_watches_the_defaults_and_what_its_own_settings_change(folder):
    stages = derived(project(folder, "student: {depth: 2}\nruntime: {workers: 1}\n"))
    assert stages.pop("code")["cmd"] == "PYTHONPATH=../.. python -m attndistill code"
    own = {name: watched_of(stage).get("params.yaml") for name, stage in stages.items()}
    assert own["pretrain_teacher"] is None
    assert own["pretrain_scratch"] == ["student"]
    assert own["distill"] == ["student"]
    assert watched_of(stages["distill"])["../../params.yaml"] == list(STAGES["distill"].sections(Item("wide")))
    assert stages["distill"]["do"]["cmd"] == "PYTHONPATH=../.. python -m attndistill distill --row ${key}"


OUTSIDE = """
downloads: {dino: {url: "https://x/dino.pth", sha256: "%s", unpack: false}}
data: {set: {name: image_folder, root: outputs/downloads/images, class_list: lists/classes.txt}}
teacher: {source: {name: checkpoint, path: outputs/downloads/dino/dino.pth}}
probe: {labels: {list_file: lists/labels.txt}}
""" % ("0" * 64)


def test_a_stage_depends_on_the_files_that_come_from_outside_trees_of_images_left_out(folder):
    stages = derived(project(folder, OUTSIDE, row="{probe.labels.list_file: lists/mine.txt}"))
    stages.pop("code")
    found = {name: stage.get("do", stage)["deps"] for name, stage in stages.items() if name != "fetch_dino"}
    outside = {
        name: {path for path in deps if path.startswith(("lists/", "outputs/downloads"))}
        for name, deps in found.items()
    }
    assert {name: paths for name, paths in outside.items() if paths} == {
        "prepare": {"outputs/downloads/images", "lists/classes.txt"},
        "pretrain_teacher": {"outputs/downloads/dino/dino.pth"},
        "probe_teacher": {"lists/labels.txt"},
        "probe_scratch": {"lists/labels.txt"},
        "probe": {"lists/mine.txt"},
    }
    assert stages["fetch_dino"]["outs"] == ["outputs/downloads/dino"]


def test_a_further_data_set_is_prepared_once_and_judged_on_by_every_model(folder):
    overlay = "datasets: {small: {data: {set: {size: 16}}, views: {image_size: 16}}}\n"
    stages = derived(project(folder, overlay))
    assert stages["prepare_small"]["cmd"].endswith("prepare --data small")
    assert stages["prepare_small"]["outs"] == ["outputs/datasets/small"]
    assert "outputs/datasets/small" in stages["probe_small"]["do"]["deps"]
    assert "outputs/data" not in stages["probe_small"]["do"]["deps"]
    assert {"probe_teacher_small", "probe_scratch_small"} <= set(stages)
    assert not any(name.startswith("distill_") for name in stages)


@pytest.mark.parametrize(
    ("overlay", "row", "message"),
    [
        ("downloads: null", "{}", "downloads: None; allowed: a mapping"),
        ("teacher: {source: foo}", "{}", "teacher.source: 'foo'; allowed: a mapping"),
        ("seeds: [0]", "{distill.lamda: 1.0}", r"rows.wide: distill.lamda: unknown key \(given 1.0\)"),
    ],
)
def test_settings_that_no_stage_would_run_with_leave_no_driver_file(folder, overlay, row, message):
    project(folder, overlay, row)
    with pytest.raises(ValueError, match=f"^{message}"):
        write_drivers(folder)
    assert not (folder / "dvc.yaml").exists()


def test_mlflow_starts_every_stage_by_the_command_that_people_type():
    entries = read_yaml(ROOT / "MLproject")["entry_points"]
    assert set(entries) == {*STAGES, "pipeline", "study"}
    for name, stage in STAGES.items():
        option = f" --{stage.option} {{{stage.option}}}" if stage.option else ""
        data = " --data {data}" if stage.judges else ""
        assert entries[name]["command"] == f"python -m attndistill {name}{option}{data}"

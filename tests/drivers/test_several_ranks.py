"""A whole pipeline under a launcher: no rank runs ahead of the first, which alone makes what is not shared."""

import json
from pathlib import Path

import pytest
from real_project import attndistill, clone, run

pytestmark = pytest.mark.drivers

ONE_EPOCH = {"recipe": {"epochs": 1, "warmup_epochs": 0}}
SETTINGS = {
    "seeds": [0],
    "runtime": {"threads": 1, "tracking": False},
    "targets": {"views": 1},
    "attention": {"images_per_class": 1},
    "pretrain": ONE_EPOCH,
    "distill": ONE_EPOCH,
}
ROWS = "rows:\n  attndistill:\n    label: AttnDistill\n    set: {}\n"


def test_two_ranks_run_the_pipeline_from_an_empty_folder_and_say_everything_once(tmp_path: Path):
    project = clone(tmp_path, SETTINGS)
    (project / "rows.yaml").write_text(ROWS)
    launcher = ("python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(project, *launcher, "-m", "attndistill", "pipeline")
    table = json.loads((project / "results/report/table.json").read_text())
    assert set(table["models"]) == {"teacher", "scratch", "attndistill"}
    assert set(table["models"]["attndistill"]) == {"parameters", "knn", "logistic", "attention"}
    assert (project / "outputs/report/index.html").is_file()
    assert done.stdout.count("report: outputs/report/index.html") == 1
    assert done.stdout.count("best student: outputs/distilled/attndistill") == 1


@pytest.mark.parametrize("words", [["pipeline"], ["prepare"], ["distill", "--row", "attndistill"]])
def test_a_rank_without_the_number_of_ranks_is_refused_before_anything_is_made(tmp_path: Path, words):
    (tmp_path / "rows.yaml").write_text(ROWS)
    done = attndistill(tmp_path, *words, code=2, RANK="1", PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.stderr.startswith("attndistill: RANK is 1, but LOCAL_RANK and WORLD_SIZE and MASTER_ADDR")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "rows.yaml"]

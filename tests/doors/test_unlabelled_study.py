"""A study of photos without labels may aim at what needs none."""

from pathlib import Path

import pytest

from attndistill.experiments import open_experiment
from attndistill.study.search import read_search

STUDY = (Path(__file__).parents[2] / "search/default.yaml").read_text()


def test_a_study_that_aims_at_labels_is_refused_on_photos(project, tmp_path):
    experiment = open_experiment(project())
    assert "objectives: [logistic_top1]" in STUDY
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(ValueError, match=r"objectives: logistic_top1 asks for labels, photos have none"):
        read_search(tmp_path / "study.yaml", experiment, {})
    (tmp_path / "study.yaml").write_text(STUDY.replace("logistic_top1", "kl_to_teacher").replace("median", "none"))
    assert read_search(tmp_path / "study.yaml", experiment, {}).definition.row == "attndistill"

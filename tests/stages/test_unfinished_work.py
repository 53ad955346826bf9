"""What a killed run leaves is gone on with by the same code alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from attndistill.experiments import open_experiment
from attndistill.stages import Item, code
from attndistill.stages.context import Context
from attndistill.stages.layout import Layout
from attndistill.tracking import Recorder

PACKAGE = Path(code.__file__).parents[1]
DISTILL = "attndistill.stages.distill"


def test_another_version_of_torch_is_other_code(monkeypatch):
    before = code.code_digest(DISTILL)
    monkeypatch.setattr(code, "version", {"torch": "2.15.0", "timm": "0"}.get)
    assert code.code_digest(DISTILL) != before


@pytest.fixture
def context(tmp_path: Path) -> Context:
    experiment = open_experiment(PACKAGE.parent / "experiments/smoke")
    config, layout = experiment.config("attndistill", {}), Layout(tmp_path / "experiments/smoke", "smoke")
    return Context(config, layout, "distill", Item("attndistill"), experiment.file, Recorder(None), code="0123456789")


def test_a_checkpoint_of_other_code_is_left_and_told_of_once(context, capsys):
    old = context.checkpoint(0, {}, "distill")
    old.save({"step": 3})
    assert context.checkpoint(0, {}, "distill").steps_done() == 3
    assert capsys.readouterr().out == ""
    edited = replace(context, code="abcdef0123")
    new = edited.checkpoint(0, {}, "distill")
    assert (new.steps_done(), old.steps_done()) == (0, 3)
    told = "distill-attndistill: unfinished work of other code was found and left: starts anew\n"
    assert capsys.readouterr().out == told
    new.save({"step": 1})
    assert edited.checkpoint(0, {}, "distill").steps_done() == 1
    assert capsys.readouterr().out == ""


def test_a_checkpoint_put_in_the_place_of_other_codes_is_refused(context):
    old, new = context.checkpoint(0, {}, "distill"), replace(context, code="abcdef0123").checkpoint(0, {}, "distill")
    old.save({"step": 3})
    new.directory.mkdir()
    shutil.copy(old.path, new.path)
    with pytest.raises(ValueError, match="belongs to another run"):
        new.load()

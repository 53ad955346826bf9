"""What every run of a stage is told to the journal with."""

import json

import pytest
import torch

from attndistill.tracking import recorder


class Silent:
    """Stands for the companion: only the journal is looked at."""

    @staticmethod
    def follow(spool: object) -> None:
        pass

    @staticmethod
    def leave() -> None:
        pass


@pytest.mark.parametrize(
    ("name", "item", "settings"),
    [
        ("prepare", "", {}),
        ("targets", "", {}),
        ("targets", "", {"targets.cache": False}),
        ("distill", "attndistill", {}),
        ("probe", "teacher", {}),
    ],
    ids=lambda value: str(value),
)
def test_a_run_names_the_very_images_and_classes_it_is_about(taught, stage, name, item, settings, monkeypatch):
    monkeypatch.setattr(recorder, "Companion", Silent)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("ATTNDISTILL_ROOT", raising=False)
    stage(name, item, **settings, **{"runtime.tracking": True})
    (journal,) = (taught / ".work/tracking").glob("*/journal.jsonl")
    events = map(json.loads, journal.read_text().splitlines())
    tags = {event["key"]: event["value"] for event in events if event["kind"] == "tag"}
    manifest = json.loads((taught / "experiments/smoke/outputs/data/manifest.json").read_text())
    assert (tags["data_digest"], tags["class_list_sha256"]) == (manifest["digest"], manifest["class_list_sha256"])


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", "none"])
def test_bf16_on_a_processor_that_imitates_it_is_told(stage, instructions, monkeypatch, capfd):
    able = {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False, instructions: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    stage("distill", "attndistill", **{"distill.recipe.precision": "bf16"})
    told = "note: this processor has no bf16 instructions: distill.recipe.precision fp32" in capfd.readouterr().err
    assert told == (instructions == "none")


def test_bf16_answers_on_such_a_processor_are_told_too(stage, monkeypatch, capfd):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    stage("targets", **{"targets.precision": "bf16"})
    assert "note: this processor has no bf16 instructions: targets.precision fp32 would be" in capfd.readouterr().err


def test_fp32_on_such_a_processor_needs_no_note(stage, monkeypatch, capfd):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    stage("distill", "attndistill")
    assert "bf16" not in capfd.readouterr().err

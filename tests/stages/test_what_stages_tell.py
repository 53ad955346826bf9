"""What every run of a stage is told to the journal with."""

import json

import pytest

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
    manifest = json.loads((taught / "outputs/smoke/data/manifest.json").read_text())
    assert (tags["data_digest"], tags["class_list_sha256"]) == (manifest["digest"], manifest["class_list_sha256"])

"""Addresses of storages: what is refused, in one line, and what never shows a password."""

import pytest

from attndistill.study.storage import Place, without_passwords


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense://x", "storage nonsense://x cannot be opened: NoSuchModuleError: Can't load plugin"),
        ("://x", "storage: not a database address; allowed: dialect://..., or a file's path"),
        (
            "postgresql+psycopg://me:secret@127.0.0.1:1/x",
            r"storage postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x cannot be opened: ",
        ),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_without_its_password(tmp_path, address, message):
    with pytest.raises(ValueError, match=f"^{message}") as refusal:
        Place.of(tmp_path, address, None).open()
    assert "secret" not in str(refusal.value)


def test_the_default_is_below_work_and_relative_paths_are_below_the_root(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTNDISTILL_STUDY_STORAGE", raising=False)
    place = Place.of(tmp_path, None, None)
    assert place == Place(f"sqlite:///{tmp_path}/.work/study/studies.db", tmp_path / ".work/study/artifacts")
    assert Place.of(tmp_path, "a.journal", "b") == Place(str(tmp_path / "a.journal"), tmp_path / "b")
    monkeypatch.setenv("ATTNDISTILL_STUDY_STORAGE", "mysql://host/studies")
    assert Place.of(tmp_path, None, None).address == "mysql://host/studies"


def test_a_recorded_command_line_hides_passwords_and_nothing_else():
    words = ["study", "a.yaml", "--storage=mysql://me:se:cret@host:3306/x", "sqlite:////tmp/a@b.db", "http://host:80/"]
    assert without_passwords(words) == ["study", "a.yaml", "--storage=mysql://me:***@host:3306/x", *words[3:]]

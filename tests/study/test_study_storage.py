"""Addresses of storages: what is refused, in one line, and what never shows a password."""

import multiprocessing
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from attndistill.study.storage import Place

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense://x", "storage nonsense://x cannot be opened: NoSuchModuleError: Can't load plugin"),
        ("://x", "storage: not a database address; allowed: dialect://..., or a file's path"),
        (
            "postgresql+psycopg://me:secret@127.0.0.1:1/x",
            r"storage postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x cannot be opened: ",
        ),
        (
            "mysql://me:secret@host/x",
            r"storage mysql://me:\*\*\*@host/x: its driver, the Python package MySQLdb, is",
        ),
        ("/tmp", "storage /tmp is a folder; allowed: the path of a journal file, or a database address"),
        ("sqlite:////proc/none/x.db", "storage: /proc/none cannot be made: No such file or directory"),
        ("/etc/hostname/x.journal", "storage: /etc/hostname cannot be made: (File exists|Not a directory)"),
        (f"sqlite:///{ROOT}/params.yaml", r"storage .*/params.yaml cannot be opened: DatabaseError: .*not a database"),
        (f"{ROOT}/params.yaml", r"storage .*/params.yaml is not a journal of studies"),
        ("sqlite://", "storage sqlite://: a study in memory is lost with its process; allowed: sqlite:///FILE"),
        ("sqlite:///:memory:", "storage sqlite:///:memory:: a study in memory is lost with its process"),
        ("mine/studies.db", r"storage .*/studies.db: a path alone is a journal file; for sqlite write sqlite:////"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_in_one_line_without_its_password(tmp_path, address, message):
    with pytest.raises(ValueError, match=f"^{message}") as refusal:
        Place.of(tmp_path, address, None).open()
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_sqlite_file_without_its_prefix_is_known_by_its_first_bytes(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mine")) as database, database:
        database.execute("CREATE TABLE t (x)")
    with pytest.raises(ValueError, match=rf"for sqlite write sqlite:///{tmp_path}/mine$"):
        Place.of(tmp_path, "mine", None)


def test_a_file_in_the_place_of_the_artifacts_is_refused(tmp_path):
    (tmp_path / "params.yaml").touch()
    with pytest.raises(ValueError, match=rf"artifacts {tmp_path}/params.yaml is not a folder"):
        Place.of(tmp_path, None, "params.yaml")


def test_the_default_is_below_work_and_relative_paths_are_below_the_root(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTNDISTILL_STUDY_STORAGE", raising=False)
    place = Place.of(tmp_path, None, None)
    assert place == Place(f"sqlite:///{tmp_path}/.work/study/studies.db", tmp_path / ".work/study/artifacts")
    assert Place.of(tmp_path, "a.journal", "b") == Place(str(tmp_path / "a.journal"), tmp_path / "b")
    monkeypatch.setenv("ATTNDISTILL_STUDY_STORAGE", "mysql://host/studies")
    assert Place.of(tmp_path, None, None).address == "mysql://host/studies"


@pytest.mark.parametrize("spelling", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_means_the_driver_that_comes_with_us(tmp_path, spelling):
    assert Place.of(tmp_path, f"{spelling}://me@host/x", None).address == "postgresql+psycopg://me@host/x"


@pytest.mark.parametrize("address", [None, "mine.journal"], ids=["sqlite", "journal"])
def test_asking_whether_a_storage_is_there_makes_nothing(tmp_path, address):
    assert not Place.of(tmp_path, address, None).exists()
    assert list(tmp_path.iterdir()) == []
    Place.of(tmp_path, address, None).open()
    assert Place.of(tmp_path, address, None).exists()


def test_several_processes_may_open_a_database_that_is_not_there_yet(tmp_path):
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(3)

    def opened() -> None:
        gate.wait()
        Place.of(tmp_path, None, None).open()

    processes = [fork.Process(target=opened) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]


@pytest.mark.parametrize("name", ["a%20b", "what?x=1", "a#b", "a:b", "{x}", "a b", "é", "50%", "a@b", "a;b&c=d", "%41"])
def test_a_database_lies_in_its_folder_whatever_the_folder_is_called_and_nothing_beside_it(tmp_path, name):
    root = tmp_path / name
    root.mkdir()
    places = [
        Place.of(root, None, None),
        Place.of(root, "sqlite:///mine.sqlite", None),
        Place.of(root, "a.journal", None),
    ]
    for place in places:
        assert not place.exists()
        optuna.create_study(storage=place.open(), study_name="mine")
        assert place.exists()
        assert [study.study_name for study in place.open().get_all_studies()] == ["mine"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (root / ".work/study/studies.db").stat().st_size > 0


def test_the_address_that_is_named_for_a_sqlite_file_is_its_address(tmp_path):
    root = tmp_path / "a?b"
    root.mkdir()
    with pytest.raises(ValueError, match="for sqlite write") as refusal:
        Place.of(root, "mine.db", None)
    Place.of(tmp_path, str(refusal.value).rpartition(" ")[2], None).open()
    assert (root / "mine.db").exists()


@pytest.mark.parametrize(
    "address",
    [
        "mysql://me:sec@ret@host:1/x",
        "mysql://host:1/x?user=me&password=secret",
        "postgresql://me:sec@ret@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?user=me&password=secret",
        "postgresql://me:a/sec:@ret@127.0.0.1:1/x?sslmode=disable&sslpassword=secret",
        "nonsense://me:secret@host/x",
        "sqlite://me:secret@/:memory:",
    ],
)
def test_no_spelling_of_a_password_is_shown(tmp_path, address):
    with pytest.raises(ValueError, match=r"storage .*\*\*\*") as refusal:
        Place.of(tmp_path, address, None).open()
    assert not re.search("secret|sec@ret|ret@|sec%40ret", str(refusal.value))
    assert "\n" not in str(refusal.value)


def _take_all(place: Place, ready, taken) -> None:
    study = optuna.load_study(study_name="queue", storage=place.open())
    ready.wait()
    own = []
    while (trial := study._pop_waiting_trial_id()) is not None:
        own.append(trial)
    taken.put(own)


@pytest.mark.parametrize("address", [None, "studies.journal"])
def test_workers_that_reach_for_a_waiting_trial_at_once_never_both_get_it(tmp_path, address):
    place = Place.of(tmp_path, address, None)
    study = optuna.create_study(study_name="queue", storage=place.open())
    for _ in range(40):
        study.enqueue_trial({})
    fork = multiprocessing.get_context("fork")
    ready, taken = fork.Barrier(4), fork.Queue()
    workers = [fork.Process(target=_take_all, args=(place, ready, taken)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = sorted(trial for _ in workers for trial in taken.get(timeout=300))
    for worker in workers:
        worker.join()
    assert found == sorted(trial._trial_id for trial in study.trials)

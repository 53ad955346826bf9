"""Models in MLflow: run where this package is not, served, registered with an alias for the best row."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

import attndistill
from attndistill.cli import main
from attndistill.config import nested
from attndistill.experiments import open_experiment
from attndistill.models.projector import Projector, Student
from attndistill.models.storage import load_model, save_model
from attndistill.models.vit import build_vit
from attndistill.pipeline import run_stage
from attndistill.results import AttentionFile, Found, Measurement, ProbeFile
from attndistill.stages import STAGES, Item
from attndistill.tracking.address import sqlite_uri

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.5, "position": "sincos"}
OVERLAP = {"narrow": 40.0, "wide": 60.0}
KL = {"narrow": 0.1, "wide": 0.3}
ALONE = """
import importlib.util, os, sys
sys.path = [place for place in sys.path if not os.path.isdir(os.path.join(place, "attndistill"))]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
assert importlib.util.find_spec("attndistill") is None, "this package is here"
import mlflow, numpy, pandas
mlflow.set_tracking_uri({store!r})
model = mlflow.pyfunc.load_model("models:/mine@best")
photos = [open(path, "rb").read() for path in {paths!r}]
features = model.predict(pandas.DataFrame({{"image": photos}}))
numpy.savez({out!r}, features=features, example=model.input_example["image"])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """An experiment `mine` whose models were never trained, and two rows whose figures disagree on which is better."""
    folder = tmp_path_factory.mktemp("experiment") / "mine"
    folder.mkdir()
    settings = {"seeds": [0], "data.set": {"name": "photos", "root": str(photos)}, "runtime.tracking": False}
    settings |= {"views.evaluation_crop": 0.9, "student": SIZES}
    YAML().dump(nested(settings), folder / "params.yaml")
    YAML().dump({"rows": {name: {"label": name, "set": {}} for name in OVERLAP}}, folder / "rows.yaml")
    layout = open_experiment(folder).layout
    run_stage(open_experiment(folder), STAGES["prepare"], Item(), {})
    save_model(layout.weights("teacher", 0), build_vit(32, 7, **SIZES), image_size=32, vit=SIZES)
    digests = {"class_list_sha256": "ab" * 32, "data_digest": "cd" * 32}
    for seed, name in enumerate(OVERLAP):
        student = Student(build_vit(32, seed, **SIZES), Projector(24, 24, 2, seed))
        save_model(layout.weights(name, 0), student, image_size=32, vit=SIZES)
        cosine, overlap, kl = (Measurement.of([value], [0], "some-v1") for value in (0.5, OVERLAP[name], KL[name]))
        found = Found.of({"cosine": cosine, "overlap": overlap}, {}, {})
        told = {"model": name, "parameters": 1, "feature": "cls_token", **digests, "probes": {"agreement": found}}
        ProbeFile(**told).write(layout.result("probes", f"{name}.json"))
        AttentionFile(model=name, **digests, kl_to_teacher=kl).write(layout.result("attention", f"{name}.json"))
    return folder


@pytest.fixture(scope="module")
def registered(finished: Path) -> str:
    """The address of the store in which they are registered."""
    words = ["register", "--experiment", str(finished), "--by", "agreement_overlap"]
    assert main(words) == 0
    return sqlite_uri(finished / "mlflow.db")


@pytest.fixture
def client(registered: str):
    from mlflow import MlflowClient

    return MlflowClient(registered)


def test_the_best_row_by_the_stated_figure_has_the_alias(client, finished, registered, capsys):
    best = client.get_model_version_by_alias("mine", "best")
    assert best.tags["row"] == "wide"
    assert float(best.tags["agreement_overlap"]) == 60
    assert client.get_model_version_by_alias("mine", "teacher").tags["row"] == "teacher"
    assert main(["register", "--experiment", str(finished), "--by", "kl_to_teacher"]) == 0
    try:
        assert client.get_model_version_by_alias("mine", "best").tags["row"] == "narrow"  # less is better
        assert "KL to teacher 0.100 nats, of 2 rows" in client.get_registered_model("mine").description
        assert len(client.search_model_versions("name = 'mine'")) == 3  # the same bytes stay one version
    finally:
        client.set_registered_model_alias("mine", "best", best.version)


def test_a_registered_model_gives_our_features_where_this_package_is_not(finished, registered, photos, tmp_path):
    paths = sorted(map(str, photos.glob("*.png")))[:5]
    code = ALONE.format(store=registered, paths=paths, out=str(tmp_path / "out.npz"))
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz", allow_pickle=True)
    (tmp_path / "some").mkdir()
    for path in paths:
        shutil.copy(path, tmp_path / "some")
    student, _ = load_model(open_experiment(finished).layout.weights("wide", 0))
    wanted = attndistill.embed(student, tmp_path / "some", settings={"views.evaluation_crop": 0.9})
    np.testing.assert_allclose(found["features"], wanted, atol=1e-5)
    with Image.open(io.BytesIO(found["example"][0])) as picture:
        assert picture.size == (36, 36)


def test_no_file_of_a_registered_model_is_a_pickle(client, finished):
    place = finished / "mlartifacts/mine/models"
    names = {path.name for path in place.rglob("*") if path.is_file()}
    assert {"model.safetensors", "served_model.py", "MLmodel", "input_example.json"} <= names
    assert not {name for name in names if name.endswith((".pkl", ".pth", ".pt"))}
    text = next(place.rglob("MLmodel")).read_text()
    assert "python_model" not in text.replace("python_model_path", "")
    assert '"type": "binary", "name": "image"' in text


def test_a_project_that_was_moved_still_has_its_models(finished, registered, tmp_path):
    from attndistill.tracking.store import Store

    moved = shutil.copytree(finished, tmp_path / "elsewhere")
    for name in ("elsewhere",):
        store = Store(sqlite_uri(tmp_path / name / "mlflow.db"))
        version = store.client.get_model_version_by_alias("mine", "best")
        place = store.client.get_model_version_download_uri("mine", version.version)
        assert place.startswith(moved.as_uri())


@pytest.fixture
def server(registered: str, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/mine@best"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    own |= {"MLFLOW_TRACKING_URI": registered, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.25)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def ask(address: str, *files: bytes) -> tuple[int, dict]:
    records = [{"image": base64.b64encode(file).decode()} for file in files]
    body = json.dumps({"dataframe_records": records}).encode()
    asked = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.drivers
def test_a_served_model_answers_with_features_and_refuses_what_is_no_picture(server, finished, photos, tmp_path):
    photo = photos / "photo-001.png"
    status, answer = ask(server, photo.read_bytes(), photo.read_bytes())
    assert status == 200
    student, _ = load_model(open_experiment(finished).layout.weights("wide", 0))
    shutil.copytree(photos, tmp_path / "one", ignore=lambda _, names: set(names) - {photo.name})
    wanted = attndistill.embed(student, tmp_path / "one", settings={"views.evaluation_crop": 0.9})
    np.testing.assert_allclose(np.array(answer["predictions"]), np.repeat(wanted, 2, axis=0), atol=1e-5)
    status, answer = ask(server, photo.read_bytes(), b"no picture")
    assert status == 400
    assert "image 1: no picture" in answer["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nobody"], "no stored model 'nobody'; allowed: teacher, narrow, wide"),
        (
            ["--by", "knn_top1"],
            "no row was measured by 'knn_top1'; allowed: agreement_cosine, agreement_overlap, kl_to_teacher",
        ),
    ],
)
def test_what_cannot_be_registered_is_refused_in_one_line(words, said, finished, capsys):
    assert main(["register", *words, "--experiment", str(finished)]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1


def test_a_name_that_is_taken_in_the_registry_is_refused_and_left(finished, tmp_path, monkeypatch, capsys):
    from mlflow import MlflowClient

    store = sqlite_uri(tmp_path / "other.db")
    MlflowClient(store).create_registered_model("mine", description="somebody's")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert main(["register", "--experiment", str(finished)]) == 2
    assert "the name mine is taken in the registry" in capsys.readouterr().err
    assert MlflowClient(store).get_registered_model("mine").description == "somebody's"
    assert MlflowClient(store).search_model_versions("name = 'mine'") == []


def test_a_registry_that_does_not_answer_is_one_line(finished, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["register", "--experiment", str(finished)]) == 2
    complaint = capsys.readouterr().err
    assert "the tracking store http://127.0.0.1:9 cannot be used" in complaint
    assert complaint.count("\n") == 1

"""`attndistill ui`: both pages answer, a browser sees a trial's attention, and nothing is left running."""

import os
import re
import signal
import socket
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import optuna
import pytest
from PIL import Image
from shared import with_tables
from toy_project import Project

from attndistill.study import ui
from attndistill.study.commands import run_studies
from attndistill.study.storage import Place
from attndistill.tracking.spool import process_started

pytestmark = pytest.mark.drivers


class Pages:
    """A running `attndistill ui`."""

    def __init__(self, project: Project, **settings: str) -> None:
        with_tables(project.root)
        self.process = project.start("ui", **settings)
        self.addresses = {}
        for line in iter(self.process.stdout.readline, ""):
            if line.startswith("Ctrl-C"):
                break
            name, _, address = line.strip().partition(": ")
            self.addresses[name] = address
        self.family = {pid: process_started(pid) for pid in descendants(self.process.pid)}

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
        self.process.stdout.close()

    def survivors(self) -> list[int]:
        """Processes that it started and that are still there, after at most some seconds."""
        deadline = time.monotonic() + 300
        left = list(self.family)
        while left and time.monotonic() < deadline:
            left = [pid for pid in left if process_started(pid) == self.family[pid]]
            time.sleep(0.1)
        return left


def descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [pid for child in children for pid in descendants(child)]


@pytest.fixture
def pages(project):
    opened = Pages(project)
    yield opened
    opened.end()


@pytest.fixture
def searched(project):
    """A study of one trial, before the pages are opened."""
    run_studies([str(project.write(trials=1))], project.experiment(), {}, storage=None, artifacts=None, workers=1)


@pytest.fixture
def look(browser, tmp_path):
    """Open a page in a browser: the elements it comes to, and a picture of it."""

    def dump(address: str) -> tuple[str, np.ndarray]:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--virtual-time-budget=20000",
                 "--window-size=1400,2600", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
        shot = tmp_path / "page.png"
        command = [browser, *flags, f"--screenshot={shot}", "--dump-dom", address]
        dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        return dom, np.asarray(Image.open(shot).convert("RGB")).astype(int)

    return dump


def test_a_browser_finds_a_trial_in_the_dashboard_and_sees_its_attention(searched, pages, look):
    assert [name.partition(",")[0] for name in pages.addresses] == ["MLflow", "optuna-dashboard"]
    for address in pages.addresses.values():
        assert address.startswith("http://127.0.0.1:")
        assert urlopen(address, timeout=120).status == 200
    dom, seen = look(f"{pages.addresses['optuna-dashboard']}/dashboard/studies/1/trials?numbers=0")
    assert "Trial 0" in dom
    pictures = re.findall(r'<img[^>]*src="(/artifacts/1/1/[0-9a-f-]{36})"', dom)
    assert len(set(pictures)) == 3  # curves and two panels
    # the hue of attention maps, which the dashboard's own drawings do not have
    orange = (seen[..., 0] > 220) & (seen[..., 1] > 100) & (seen[..., 1] < 200) & (seen[..., 2] < 60)
    assert orange.mean() > 0.002


@pytest.fixture
def recorded(project):
    """A run in MLflow, before the pages are opened."""
    with_tables(project.root)
    project.run("prepare", "--runtime.tracking", "true")


def test_a_browser_finds_a_recorded_run_in_mlflow(recorded, pages, look):
    dom, _ = look(pages.addresses["MLflow, runs of digits"])  # the address that is printed
    assert re.search(r'href="#/experiments/1/runs/[0-9a-f]{32}"[^>]*>(<[^>]*>)*prepare<', dom)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_no_server_outlives_the_command(pages, number):
    assert len(pages.family) >= 2  # the guard, MLflow's server
    os.kill(pages.process.pid, number)
    code = pages.process.wait(60)
    assert code == (0 if number == signal.SIGINT else -signal.SIGKILL)
    assert pages.survivors() == []


def test_a_tracking_server_elsewhere_is_named_and_the_dashboard_alone_is_started(project):
    pages = Pages(project, MLFLOW_TRACKING_URI="http://me:secret@tracking.example:5000")
    try:
        assert pages.addresses["MLflow"] == "http://me:***@tracking.example:5000"
        assert pages.family == {}
        assert urlopen(pages.addresses["optuna-dashboard"], timeout=120).status == 200
    finally:
        pages.end()


def test_the_address_of_mlflows_database_is_not_in_the_list_of_processes(tmp_path, monkeypatch):
    asked = {}

    class RefusedError(Exception):
        pass

    def popen(command, *, env, **_):
        asked.update(command=command, env=env)
        raise RefusedError

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(RefusedError), ui._mlflow("postgresql://me:secret@host/mlflow", 5000, tmp_path / "log"):
        pass
    assert "secret" not in " ".join(asked["command"])
    assert asked["env"]["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@host/mlflow"


@pytest.fixture
def dashboard(tmp_path):
    """A running dashboard of one study: its port, and how to ask it and to count its studies."""
    place = Place.of(tmp_path, "mine.journal", None)
    storage = place.open()
    optuna.create_study(storage=storage, study_name="mine")
    (port,) = ui._ports(None, 1)

    def ask(method: str, path: str, **headers: str) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        connection.putrequest(method, path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    with ui._dashboard(place, port):
        yield port, ask, lambda: len(place.open().get_all_studies())


FOREIGN = [
    "evil.example:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "localhost.evil.example:{port}",
    "127.0.0.1:{port}.evil",
    "",
]


@pytest.mark.parametrize("host", [*FOREIGN, None])
def test_a_request_under_a_foreign_host_is_refused_and_deletes_nothing(dashboard, host):
    port, ask, studies = dashboard
    headers = {} if host is None else {"Host": host.format(port=port)}
    for method, path in (("GET", "/dashboard/"), ("GET", "/api/studies"), ("DELETE", "/api/studies/0")):
        assert ask(method, path, **headers) == 403
    assert studies() == 1


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "null", ""]
)
def test_a_request_from_a_foreign_page_is_refused_and_deletes_nothing(dashboard, origin):
    port, ask, studies = dashboard
    assert ask("DELETE", "/api/studies/0", Host=f"127.0.0.1:{port}", Origin=origin.format(port=port)) == 403
    assert studies() == 1


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "LocalHost"])
def test_the_dashboards_own_page_may_look_and_delete_under_each_of_our_names(dashboard, name):
    port, ask, studies = dashboard
    own = {"Host": f"{name}:{port}"}
    assert ask("GET", "/api/studies", **own) == 200
    assert ask("DELETE", "/api/studies/0", **own, Origin=f"http://{name}:{port}") == 204
    assert studies() == 0


def test_the_dashboard_listens_on_this_machines_own_address_alone(dashboard):
    port, _, _ = dashboard
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_that_is_taken_is_refused_in_one_line(tmp_path, monkeypatch, taken):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"^port {port} of 127.0.0.1 cannot be had: Address already in use; allowed"
        ):
            ui.show_pages(tmp_path, "mine.journal", None, port - taken)


@pytest.mark.parametrize("port", [0, -1, 65535, 70000])
def test_a_number_that_is_no_port_is_refused(tmp_path, monkeypatch, port):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=rf"^--port {port}; allowed: 1 to 65534$"):
        ui.show_pages(tmp_path, "mine.journal", None, port)

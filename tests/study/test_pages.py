"""`attndistill ui`: both pages answer, a browser sees a trial's attention, and nothing is left running."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from toy_project import Project

from attndistill.study import ui
from attndistill.study.commands import run_studies
from attndistill.study.storage import Place
from attndistill.tracking.spool import process_started

pytestmark = pytest.mark.drivers


class Pages:
    """A running `attndistill ui`."""

    def __init__(self, project: Project, **settings: str) -> None:
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
        deadline = time.monotonic() + 60
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
    assert set(pages.addresses) == {"MLflow", "optuna-dashboard"}
    for address in pages.addresses.values():
        assert address.startswith("http://127.0.0.1:")
        assert urlopen(address, timeout=30).status == 200
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
    project.run("prepare", "--runtime.tracking", "true")


def test_a_browser_finds_a_recorded_run_in_mlflow(recorded, pages, look):
    dom, _ = look(f"{pages.addresses['MLflow']}/#/experiments/1/runs")
    assert re.search(r'href="#/experiments/1/runs/[0-9a-f]{32}"[^>]*>(<[^>]*>)*prepare<', dom)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_no_server_outlives_the_command(pages, number):
    assert len(pages.family) >= 4  # two guards, two servers
    os.kill(pages.process.pid, number)
    code = pages.process.wait(60)
    assert code == (0 if number == signal.SIGINT else -signal.SIGKILL)
    assert pages.survivors() == []


def test_a_tracking_server_elsewhere_is_named_and_the_dashboard_alone_is_started(project):
    pages = Pages(project, MLFLOW_TRACKING_URI="http://me:secret@tracking.example:5000")
    try:
        assert pages.addresses["MLflow"] == "http://me:***@tracking.example:5000"
        assert len(pages.family) == 2  # one guard, one server
        assert urlopen(pages.addresses["optuna-dashboard"], timeout=30).status == 200
    finally:
        pages.end()


def test_no_address_of_a_storage_is_in_the_list_of_processes(tmp_path):
    place = Place.of(tmp_path, "postgresql://me:secret@host/studies", None)
    for page in (ui._mlflow("postgresql://me:secret@host/mlflow"), ui._dashboard(place)):
        assert "secret" not in " ".join(page.command)
        assert any("secret" in value for value in page.environment.values())

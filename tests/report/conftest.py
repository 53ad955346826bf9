"""Written experiments, and a browser to read their pages."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from written_experiment import Ablation, Experiment

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


@pytest.fixture
def ablation(tmp_path: Path) -> Ablation:
    made = Ablation(tmp_path)
    made.write()
    return made


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    made = Experiment(tmp_path)
    made.write()
    return made


@pytest.fixture
def browse(browser: str, tmp_path: Path) -> Callable[..., str]:
    """Runs the browser with options; gives what it prints."""

    def run(*options: str) -> str:
        command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *options]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return run

"""The page in a real browser, from a file:// address: the table is there, the pictures load, both schemes are drawn."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from attndistill.report.build import build_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
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
pytestmark = [
    pytest.mark.drivers,
    pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH"),
]


@pytest.fixture
def address(experiment):
    experiment.write_curves()
    build_report(
        experiment.results,
        experiment.outputs,
        experiment.destination,
        title="Digits",
        rows=experiment.rows,
        description=experiment.description,
    )
    return (experiment.destination / "index.html").as_uri()


def browse(tmp_path, *options: str) -> str:
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_browser_shows_the_tables_figures(tmp_path, address, experiment):
    dom = browse(tmp_path, "--dump-dom", address)
    printed = re.findall(r"<td[^>]*>(\d\d\.\d(?: ± \d\.\d)?)</td>", dom)
    assert len(printed) == 16  # four models, two probes, top-1 and top-5
    tex = (experiment.destination / "table.tex").read_text()
    assert all(figure.replace("±", "$\\pm$") in tex for figure in printed)


@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)], ids=["dark", "light"])
def test_a_screenshot_shows_a_page_with_pictures_in_the_readers_scheme(tmp_path, address, scheme, dark):
    shot = tmp_path / "page.png"
    browse(
        tmp_path,
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1180,3000",
        f"--screenshot={shot}",
        address,
    )
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert (seen[2, 2].mean() < 64) == dark
    # The hue of attention maps appears nowhere but in inlined pictures.
    orange = (seen[..., 0] > 220) & (seen[..., 1] > 100) & (seen[..., 1] < 200) & (seen[..., 2] < 60)
    assert orange.mean() > 0.005

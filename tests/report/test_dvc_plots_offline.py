"""`dvc plots show` with the project's page: pictures are shown, and nothing is asked of the network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attndistill.figures.attention import png_bytes

PAGE = Path(__file__).parents[2] / "docs" / "dvc-plots.html"
pytestmark = pytest.mark.drivers


@pytest.fixture
def shown(tmp_path) -> Path:
    """The page of a repository that plots one picture and one curve."""
    place = tmp_path / "repository"
    place.mkdir()
    (place / "picture.png").write_bytes(png_bytes(np.full((20, 30, 3), 90, np.uint8)))
    (place / "curve.csv").write_text("epoch,top1\n1,50\n2,60\n")
    curve = "  - curve.csv:\n      x: epoch\n      y: top1\n"
    (place / "dvc.yaml").write_text(f"plots:\n  - picture.png\n{curve}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}

    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True, timeout=120)

    dvc("init", "--no-scm")
    dvc("config", "core.analytics", "false")
    dvc("config", "plots.html_template", os.path.relpath(PAGE, place / ".dvc"))
    dvc("plots", "show")
    return place / "dvc_plots" / "index.html"


def test_the_page_holds_the_picture_and_names_no_script_of_the_network(shown):
    text = shown.read_text()
    (source,) = re.findall(r'<img src="([^"]+)"', text)
    assert (shown.parent / source).read_bytes() == (shown.parents[1] / "picture.png").read_bytes()
    assert re.findall(r"<(?:script|link|img)[^>]*https?:", text) == []
    assert "{" + "plot_divs}" not in text


def test_a_curve_is_drawn_by_the_page_itself(browser, shown, tmp_path):
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [browser, *flags.split(" "), "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", shown.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    (points,) = re.findall(r'<polyline[^>]* points="([^"]+)"', dom)
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]  # 50 lies below 60
    assert 'class="note"' not in dom

"""Memory does not grow with the data set: measured on a real process over a tree of hard-linked images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MEASURE = """
import json, sys, time
from pathlib import Path
import numpy as np
from attndistill.data.loading import Schedule, training_batches
from attndistill.data.preparation import prepare
from attndistill.data.sources import open_source
from attndistill.data.store import open_split
from attndistill.data.views import ViewRecipe

def status(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) // 1024

def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")

root, out, steps, pause = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
recipe = ViewRecipe(0, 32, (0.2, 1.0), (0.75, 4 / 3), 0.5, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
from PIL import Image; Image.init()
import torch; torch.ones(2, 2) @ torch.ones(2, 2)
reset_peak(); before = status("VmRSS")
slow_disk = lambda *_: time.sleep(pause)
source = open_source("image_folder", {"root": str(root)})
manifest = prepare(source, out, validation_fraction=0.1, split_seed=0, workers=2, progress=slow_disk)
prepared = status("VmHWM")
images = open_split(out, "train")
reset_peak()
schedule = Schedule(len(images), 64, 1, 0)
for step, batch in enumerate(training_batches(images, recipe, schedule, first_step=0, workers=0)):
    if step == steps: break
read = status("VmHWM")
total = sum(part["bytes"] for part in manifest["splits"].values()) // 2**20
print(json.dumps({"count": manifest["splits"]["train"]["count"], "bytes_mib": total, "before_mib": before,
                  "prepare_mib": prepared - before, "read_mib": read - before}))
"""


def measure(tmp_path: Path, count: int, side: int, steps: int, pause: float) -> dict[str, int]:
    """Prepare and read a tree of `count` training images, `side` pixels of noise each; peak memory in MiB.

    `pause` seconds pass between two images written, so that readers without a bound would run ahead.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.jpg", quality=95)
    for split, images in (("train", count), ("val", 10)):
        for label in range(10):
            folder = tmp_path / "tree" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(images // 10):
                if number % 50_000 == 0:  # file systems limit the links to one file
                    source = tmp_path / f"{split}-{label}-{number}.jpg"
                    source.write_bytes((tmp_path / "one.jpg").read_bytes())
                (folder / f"image_{number:06d}.jpg").hardlink_to(source)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "tree"), str(tmp_path / "out"), str(steps), str(pause)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    figures: dict[str, int] = json.loads(done.stdout)
    print(figures)
    assert figures["count"] == count
    return figures


def test_preparing_and_reading_holds_a_few_images_and_not_the_set(tmp_path: Path) -> None:
    figures = measure(tmp_path, 250, 800, steps=3, pause=0.02)
    assert figures["bytes_mib"] > 150
    assert figures["prepare_mib"] < 50
    assert figures["read_mib"] < 100


@pytest.mark.slow
def test_two_hundred_thousand_images_are_prepared_in_bounded_memory(tmp_path: Path) -> None:
    figures = measure(tmp_path, 200_000, 64, steps=200, pause=0)
    assert figures["bytes_mib"] > 1000
    assert figures["prepare_mib"] < 200
    assert figures["read_mib"] < 250

"""Every benchmark runs, at sizes that take a moment; what ways of the same work answer is compared, never a time."""

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cache, data, engine, gpu, heads, kernels, pair, probes, search, startup, step
from benchmarks.configurations import CONFIGURATIONS, made_up_images
from benchmarks.tables import comparison_page, page


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    return [value] if isinstance(value, float) else []


def check_page(name: str, measured: dict[str, Any]) -> None:
    found = numbers(measured)
    assert found
    assert all(math.isfinite(number) and number >= 0 for number in found)
    assert comparison_page(name, {"machine": {"cores": 2}, "measured": measured}).count("|") > 8


def test_the_data_path_is_measured_beside_torchvision():
    check_page("data", data.measure(repeats=1, images=4, workers=1))


def test_the_way_from_files_to_an_updated_student_is_measured_beside_others():
    check_page("pair", pair.measure(repeats=1, images=2, batch_size=2, workers=1, precisions=["fp32"]))


def test_torchvisions_views_have_the_sizes_and_statistics_of_ours():
    recipe = CONFIGURATIONS["b16-s16"].recipe
    images = made_up_images(CONFIGURATIONS["b16-s16"], 8)
    transform = data.torchvision_view(recipe)
    theirs = torch.stack([transform(torch.from_numpy(image).permute(2, 0, 1)) for image in images.images])
    ours = data.view_batch(images, recipe, 0, np.arange(8)).images
    assert theirs.shape == ours.shape
    assert abs(float(theirs.mean() - ours.mean())) < 0.2
    assert abs(float(theirs.std() - ours.std())) < 0.2


def test_the_cache_takes_the_bytes_that_were_predicted():
    measured = cache.measure(repeats=1, images=64, views=2)
    check_page("cache", measured)
    for one in measured.values():
        assert one["bytes_a_view_found"] == pytest.approx(one["bytes_a_view_predicted"], rel=0.01)  # and a header


def test_a_stored_view_is_measured_against_what_each_use_of_it_saves():
    sizes = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 4, "mlp_ratio": 4.0, "position": "learnable"}
    toy = replace(CONFIGURATIONS["small"], teacher=sizes, student={**sizes, "depth": 1})
    measured = cache.paying([toy], repeats=1, images=32)
    check_page("cache", measured)
    for one in measured["A stored view pays"][toy.label].values():
        assert set(one) == {"pays after so many uses", "making a view", "exact step", "cached step"}


def test_kernels_are_measured_beside_the_plain_ones():
    measured = kernels.measure(repeats=1, attention=[(1, 2, 5, 8)], layers=[(6, 8, 16)])
    check_page("kernels", measured)
    taken = {label: one["1x2x5x8, taken"] for label, one in measured.items() if label.startswith("attention")}
    assert taken["attention, bf16, with backward"] == "plain"  # short sequences: what the table says
    assert taken["attention, fp32, with backward"] == "fused"


def test_a_step_with_many_heads_is_measured_beside_one_with_a_single_head():
    vit = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.0, "position": "learnable"}
    measured = heads.measure(repeats=1, images=4, image_size=16, classes=3, vit=vit, blocks=2)
    check_page("probes", measured)
    assert len(measured["heads"]["ways"]) == 4


def test_every_way_of_nearest_neighbours_has_the_same_answers():
    measured = probes.measure(repeats=1, bank=900, queries=200, width=16, classes=7, fitted=200, iterations=20)
    check_page("probes", measured)
    first, *others = measured["knn"]["top1"].values()
    assert 20 < first["10"] < 100
    for other in others:
        assert other == pytest.approx(first, abs=0.51)  # one query of 200 may be a tie


@pytest.mark.drivers
def test_the_start_of_a_command_is_measured():
    check_page(
        "startup", startup.measure(repeats=1, commands=["python, nothing", "attndistill --help", "a refused setting"])
    )


@pytest.mark.slow
@pytest.mark.drivers
def test_a_study_is_measured_beside_the_two_commands_of_a_student():
    measured = search.measure(experiment="experiments/smoke", trials=1, separate=1, pipelines=0)
    check_page("search", {"toy size": measured})
    assert "share of 1 times distill and probe" in measured


def test_two_workers_are_measured_beside_one_row_after_another(monkeypatch):
    def timed(clone: Path, folder: str, words: list[str]) -> float:
        task = Path(folder) / ".work/engine/pipeline/tasks/prepare.json"
        task.parent.mkdir(parents=True)
        task.write_text(json.dumps({"since": time.time() + 3}))
        return 5.0 if "--on" in words else 10.0

    monkeypatch.setattr(engine, "timed", timed)  # the real thing takes minutes
    measured = engine.measure(rows=48, epochs=12, repeats=1)
    check_page("engine", {"toy rows": measured})
    assert measured["share of the time of one after another"] == "0.500"
    assert measured["before the first task"]["median"] == pytest.approx(3, abs=1)


def test_a_step_is_measured_in_every_way():
    measured = step.measure(CONFIGURATIONS["small"], torch.device("cpu"), ["fp32"], repeats=1, batch_size=2)
    assert set(measured["variants"]) == {"reference fp32", "exact fp32", "cached fp32"}
    text = page({"machine": {"cores": 2}, "configurations": {"small": measured}})
    assert text.count("| exact fp32 |") == 2


def test_tf32_is_refused_where_there_is_none(capsys):
    with pytest.raises(SystemExit):
        step.main(["--device", "cpu", "--dtype", "tf32"])
    assert "--dtype tf32 on cpu; allowed there: fp32, bf16" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.drivers
def test_the_whole_check_of_a_gpu_runs_at_toy_size_on_a_cpu(tmp_path: Path):
    assert gpu.main(["--device", "cpu", "--output", str(tmp_path), "--seconds", "1500"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found["parts"]) == set(gpu.PARTS)
    assert all("errors" not in part and "skipped" not in part for part in found["parts"].values())
    for precision in ("bf16", "fp32"):
        assert found["parts"]["training"][precision]["killed_and_resumed_is_the_same_bytes"]
    page, path = (tmp_path / "gpu.md").read_text(), tmp_path / "gpu.json"
    assert "these figures mean nothing" in page
    gpu.main(["--render", str(path)])
    assert (tmp_path / "gpu.md").read_text() == page


def test_a_part_that_fails_is_recorded_and_the_next_goes_on(tmp_path: Path, monkeypatch):
    def broken(check: gpu.Check) -> None:
        check.tell("before", 1.0)
        check.attempt("one figure", 0, lambda: 1 / 0)
        check.attempt("another", 0, lambda: 2.0)
        check.attempt("a third", 1e9, lambda: 3.0)
        raise RuntimeError("the end of it")

    (tmp_path / "gpu.json").write_text('{"parts": {}}')
    monkeypatch.setitem(gpu.PARTS, "loader", (broken, 10))
    assert gpu.run_part(gpu.Check(tmp_path, "loader", "cpu", time.monotonic() + 100)) == 1
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["loader"]
    assert (part["before"], part["another"]) == (1.0, 2.0)
    assert part["a third"].startswith("skipped: ")
    assert "ZeroDivisionError" in part["errors"]["one figure"]
    assert "the end of it" in part["errors"]["loader"]
    assert "**Failed: one figure**" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_outlasts_its_seconds_is_ended_with_what_it_found(tmp_path: Path):
    (tmp_path / "gpu.json").write_text('{"parts": {"loader": {"found": 1.0}}}')
    check = gpu.Check(tmp_path, "loader", "cpu", time.monotonic())
    assert gpu.start_part(check, [sys.executable, "-c", "import time; time.sleep(60)"], 0.5) != 0
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["loader"]
    assert part["found"] == 1.0
    assert "ended after" in part["errors"]["time"]

"""A dry run says what a run would read and cost; nothing is run or written."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
from shipped import with_shipped_rows

from attndistill.cli import main
from attndistill.costs.machine import Machine, lasting
from attndistill.library import configure

ROOT = Path(__file__).parents[2]
OF_1000_CLASSES = "--images 1281167 --test-images 50000 --classes 1000 --tflops 100"
OF_100_CLASSES = "--images 126689 --test-images 5000 --classes 100 --tflops 100"
README_BLOCKS = {
    "imagenet_subset": ("distill --row a-layers-8-3-32-attn", "--images 126689 --tflops 100", 0),
    "imagenet1k_dino_s8_s16": ("probe --model attndistill", OF_1000_CLASSES, 0),
    "imagenet1k_mugs_b16_s16": ("probe --model attndistill", OF_1000_CLASSES, 0),
    "imagenet1k_mugs_s16_t16": ("probe --model attndistill", OF_1000_CLASSES, 0),
}
PAPER_ROW = ["distill", "--experiment", "experiments/imagenet_subset", "--row", "a-heads-6-attn", "--dry-run"]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing was run yet."""
    shutil.copy(ROOT / "params.yaml", with_shipped_rows(tmp_path))
    kept = shutil.ignore_patterns("outputs", "results", ".dvc", ".work")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=kept)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", README_BLOCKS)
def test_the_dry_run_in_a_paper_scale_readme_is_what_the_command_prints(bare, capsys, name):
    before = sorted(bare.rglob("*"))
    command, counts, code = README_BLOCKS[name]
    words = f"{command} --experiment experiments/{name} --dry-run {counts}"
    assert main(words.split()) == code
    readme = (ROOT / "experiments" / name / "README.md").read_text()
    assert readme.split("```\n")[1] == capsys.readouterr().out
    assert f"attndistill {words}" in readme
    assert sorted(bare.rglob("*")) == before


@pytest.mark.slow
def test_the_whole_of_table_10_at_paper_scale_is_in_a_file_of_its_own(bare, capsys):
    words = f"pipeline --experiment experiments/imagenet_subset --dry-run {OF_100_CLASSES}"
    assert main(words.split()) == 1
    folder = ROOT / "experiments/imagenet_subset"
    assert (folder / "dry-run.txt").read_text() == capsys.readouterr().out
    assert f"attndistill {words}" in (folder / "README.md").read_text()


def test_one_stage_names_what_is_not_there_yet_and_who_makes_it(bare, capsys):
    mine = ["--data.set.name", "image_folder", "--data.set.root", "images"]
    assert main(["distill", "--row", "attndistill", "--dry-run", *mine]) == 0
    out = capsys.readouterr().out
    assert "not yet 2      outputs/pretrained/teacher, made by attndistill pretrain --model teacher\n" in out
    assert "in all         not known before prepare (or give --images)\n" in out


def test_a_whole_run_is_told_in_minutes_of_this_machine_with_its_probes_and_the_starts_of_its_stages(
    bare, capsys, monkeypatch
):
    slow = Machine(rate=1e10, host_rate=1e9, start=6.0, side_by_side=2)
    monkeypatch.setattr("attndistill.costs.dry_run.measured", lambda config: slow)
    assert main(["pipeline", "--dry-run"]) == 0  # how many digits there are is known before `prepare`
    out = capsys.readouterr().out
    assert "train images   1,258\n" in out
    sums = dict(re.findall(r"^(\S+)\n(?:  .*\n)*?  in all +.*?([\d.e+]+) FLOPs, about", out, re.MULTILINE))
    assert set(sums) >= {"pretrain@teacher", "distill@projector_alignment", "probe@teacher"}
    (regression,) = re.findall(r"probe@teacher\n(?:  .*\n)*?  regression +at most ([\d.]+) GFLOPs", out)
    (probe,) = re.findall(r"probe@teacher\n(?:  .*\n)*?  in all .*about ([\d.]+) seconds", out)
    assert float(probe) == pytest.approx(float(sums["probe@teacher"]) / 1e10 + float(regression), rel=0.03)
    (total,) = re.findall("^sum of these +([\\d.e+]+) FLOPs, about .* minutes on this machine as it is now", out, re.M)
    assert float(total) > sum(map(float, sums.values()))
    assert "with 15 starts of 6 s (dvc repro) about " in out


def test_the_machine_is_measured_by_the_students_own_steps():
    from attndistill.costs.machine import measured

    machine = measured(configure({"student.depth": 1, "runtime.processes": 64}))
    assert 1e7 < machine.rate < 1e15
    assert 1e7 < machine.host_rate < 1e15
    assert machine.side_by_side <= (os.cpu_count() or 1)
    assert machine.seconds(machine.rate, machine.host_rate) == pytest.approx(2.0)
    assert machine.seconds(machine.rate, models=2) == pytest.approx(1 / min(2, machine.side_by_side))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "under a second"),
        (3.21, "about 3.2 seconds"),
        (89, "about 89 seconds"),
        (240, "about 4.0 minutes"),
        (3600, "about 60 minutes"),
        (20000, "about 5.6 hours"),
        (1e6, "about 12 days"),
    ],
)
def test_a_time_is_told_in_words_that_people_use(seconds, words):
    assert lasting(seconds) == words


def test_fewer_images_than_a_batch_are_refused(bare, capsys):
    assert main(["distill", "--row", "attndistill", "--dry-run", "--images", "10"]) == 2
    assert "batch size 64 is larger than the 10 training images" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--images", "--test-images", "--classes"])
@pytest.mark.parametrize("given", ["0", "-1", "1.5", "many"])
def test_counts_that_are_none_are_refused(bare, capsys, option, given):
    assert main(["prepare", "--dry-run", f"{option}={given}"]) == 2
    assert f"{option}: {given!r}; allowed: a whole number above 0" in capsys.readouterr().err


def test_every_stage_that_runs_a_model_or_reads_its_results_is_listed_with_its_memory(bare, capsys):
    assert main(["pipeline", "--dry-run", "--images", "1258", "--test-images", "539", "--classes", "10"]) == 0
    blocks = {block.split("\n")[0]: block for block in capsys.readouterr().out.replace("\n  ", "\r").split("\n")}
    names = {name.partition("\r")[0] for name in blocks}
    assert {"prepare", "pretrain@teacher", "targets", "probe@teacher", "attention@teacher", "report"} <= names
    silent = {name.partition("\r")[0] for name, block in blocks.items() if "\r" in block and "memory" not in block}
    assert silent == {"prepare"}


@pytest.mark.parametrize(
    ("words", "schedule", "peak"),
    [
        (["pretrain", "--model", "teacher"], "95 of 760 steps", "0.003"),
        (["distill", "--row", "attndistill"], "76 of 760 steps", "0.0015"),
    ],
)
def test_a_schedule_is_told_by_its_steps_and_its_first_highest_and_last_rates(bare, capsys, words, schedule, peak):
    assert main([*words, "--dry-run", "--images", "1258"]) == 0  # 19 steps an epoch, 40 epochs
    out = capsys.readouterr().out
    assert f"= {peak} at its peak\n" in out
    warmup = int(schedule.split()[0])
    last = float(peak) * (3.14159265 / (760 - warmup)) ** 2 / 4  # the cosine one step before its end
    assert f"schedule       {schedule} (" in out
    assert f"first rate 0, last {last:.3g}\n" in out


def test_the_linear_probe_s_schedule_and_memory_are_told_beside_the_other_probes(bare, capsys):
    words = ["probe", "--model", "scratch", "--experiment", "experiments/imagenet_subset", "--dry-run"]
    assert main([*words, *OF_100_CLASSES.split()]) == 0
    out = capsys.readouterr().out
    assert "linear steps   70 of 630 steps (10 of 90 epochs" in out
    assert "linear rate    0.1 x 16,384 / 256 = 6.4 at its peak\n" in out
    assert "linear memory  22.1 MB weights + at most 1.7 GB while 512 images are read\n" in out
    assert "host memory    101.1 MB features" in out  # 131,689 images x 192 x 4 bytes


def test_the_cache_s_size_is_told_where_it_is_off_too(bare, capsys):
    words = ["targets", "--experiment", "experiments/imagenet_subset", "--dry-run", "--images", "126689"]
    each = 2 * (384 + 6 * 197)
    assert main(words) == 0
    assert f"cache off; V = 3,200 would take {each:,} bytes for one view of one image, 1.3 TB in all" in (
        capsys.readouterr().out
    )
    assert main([*words, "--targets.cache", "true", "--targets.views", "2"]) == 0
    assert f"V = 2 takes {each:,} bytes for one view of one image, {each * 2 * 126_689 / 1e6:.1f} MB in all" in (
        capsys.readouterr().out
    )


def test_a_live_teacher_has_a_line_of_its_own_and_a_cached_one_has_none(bare, capsys):
    assert main([*PAPER_ROW, "--images", "126689"]) == 0
    live = capsys.readouterr().out
    assert "live teacher   8.4 GFLOPs an image of the step's; 86.7 MB weights + at most 2.2 GB" in live
    assert main([*PAPER_ROW, "--images", "126689", "--targets.cache", "true"]) == 0
    cached = capsys.readouterr().out
    assert "live teacher" not in cached
    assert "step           6.9 GFLOPs an image" in cached


def test_items_that_cost_the_same_are_told_together(bare, capsys):
    assert main(["pipeline", "--dry-run", "--images", "1258", "--targets.cache", "false"]) == 0
    out = capsys.readouterr().out
    assert out.count("distill@") == 1
    assert "distill@projector_alignment\n" in out
    assert "as much each   attndistill\n" in out


class TestWhatComesFromOutside:
    @pytest.mark.parametrize(
        ("words", "file"),
        [
            (["prepare", "--data.set.class_list", "classes.txt"], "classes.txt"),
            (["probe", "--model", "scratch", "--probe.labels.list_file", "labels.txt"], "labels.txt"),
        ],
    )
    def test_a_list_is_looked_for_in_the_experiments_folder(self, bare, capsys, monkeypatch, words, file):
        monkeypatch.chdir(bare.parent)
        words = [*words, "--dry-run", "--experiment", bare.name]
        assert main(words) == 1
        assert f"missing 1      {file}, which comes from outside\n" in capsys.readouterr().out
        (bare / file).write_text("0\n1\n")
        assert main(words) == 0

    def test_a_checkpoint_must_be_there_and_be_the_one_that_is_wanted(self, bare, capsys):
        folder, wanted = bare / "experiments/imagenet1k_mugs_s16_t16", hashlib.sha256(b"weights").hexdigest()
        words = ["pretrain", "--model", "teacher", "--dry-run"]
        words += ["--experiment", "experiments/imagenet1k_mugs_s16_t16"]
        words += ["--teacher.source.path", "teacher.pth", "--teacher.source.sha256", wanted.upper()]
        assert main(words) == 1
        assert "missing 1      teacher.pth, which comes from outside\n" in capsys.readouterr().out
        (folder / "teacher.pth").write_bytes(b"others")
        assert main(words) == 1
        found = hashlib.sha256(b"others").hexdigest()
        assert f"missing 1      teacher.pth: its SHA-256 is {found}, not {wanted}\n" in capsys.readouterr().out
        (folder / "teacher.pth").write_bytes(b"weights")
        assert main(words) == 0

    def test_what_a_stage_fetches_does_not(self, bare, capsys):
        fetched = "outputs/downloads/images"
        assert main(["prepare", "--dry-run", "--data.set.name", "idx", "--data.set.root", fetched]) == 0
        assert "missing" not in capsys.readouterr().out

"""Table 10 line by line: its miniature and its paper-scale base say what the decoded table says."""

import csv
from pathlib import Path

import pytest

from attndistill.experiments import Experiment, open_experiment

ROOT = Path(__file__).parents[2]
with (ROOT / "experiments/table10/table10.csv").open(encoding="utf-8", newline="") as file:
    LINES = list(csv.DictReader(file))
DISTILLED = [line for line in LINES if line["group"] != "baseline"]
for line in LINES:
    line["id"] = line["id"].replace(".", "_")  # a row's name goes into dotted keys
MINIATURE, PAPER_SCALE = "table10", "imagenet_subset"
DEPTHS = {  # the miniature's counterparts, as experiments/table10/README.md has them
    MINIATURE: {"12": 3, "8": 2},
    PAPER_SCALE: {"12": 12, "8": 8},
}
PATCHES = {
    MINIATURE: {"16": 4, "28": 6, "32": 8},
    PAPER_SCALE: {"16": 16, "28": 28, "32": 32},
}
QUEUES = {MINIATURE: 1024, PAPER_SCALE: 128_000}
AGGREGATIONS = {"yes": "geometric_mean", "no": "none", "max": "max", "min": "min"}


@pytest.fixture(scope="module", params=[MINIATURE, PAPER_SCALE])
def experiment(request: pytest.FixtureRequest) -> Experiment:
    return open_experiment(ROOT / f"experiments/{request.param}")


def test_every_line_of_the_table_is_there_in_its_order(experiment):
    assert len(LINES) == 47
    ours = [name for name in experiment.rows if not name.startswith("g-")]  # our own group, after the paper's
    assert ours == list(experiment.rows)[: len(ours)] == [line["id"] for line in DISTILLED]


@pytest.mark.parametrize("line", DISTILLED, ids=lambda line: line["id"])
def test_a_row_trains_what_its_line_says(experiment, line):
    config = experiment.config(line["id"], {})
    assert config.student.num_heads == int(line["heads"])
    assert config.student.depth == DEPTHS[experiment.name][line["layers"]]
    assert config.student.patch_size == PATCHES[experiment.name][line["patch"]]
    assert config.distill.projector_depth == int(line["p_layers"])
    assert config.probe.projector_layer == int(line["eval_p_layer"])
    assert config.distill.alignment_weight == (1.0 if line["pa"] == "yes" else 0.0)
    others = {"compress": line["compress_kd"], "patch_tokens": line["patch_align"]}
    given = config.distill.embedding_loss
    assert [given.name if given else None] == ([name for name, on in others.items() if on == "yes"] or [None])
    if line["compress_kd"] == "yes":
        assert given.queue_size == QUEUES[experiment.name]


@pytest.mark.parametrize("line", DISTILLED, ids=lambda line: line["id"])
def test_a_row_guides_attention_as_its_line_says(experiment, line):
    distill = experiment.config(line["id"], {}).distill
    if line["attn"] == "no":
        assert distill.lambda_ == 0
        return
    assert distill.lambda_ == float(line["lambda"])
    assert distill.aggregation.name == AGGREGATIONS[line["aggregate"]]
    assert distill.aggregation.options().get("temperature", 0.0) == float(line["T"] or 0)
    assert distill.interpolation == (line["interpolate"] == "yes")
    assert distill.attention_loss.name == ("mse" if line["id"] == "f-mse" else "kl")
    if line["id"] == "f-value-norm":
        assert distill.signal.name == "value_norms"
    else:
        assert distill.signal.options() == {"layers": line["attn_layer"]}


def test_the_paper_s_figures_are_those_of_the_table(experiment):
    ours = {name: (row.paper.top1, row.paper.top5) for name, row in experiment.rows.items() if row.paper}
    theirs = {line["id"]: tuple(float(line[key]) if line[key] else None for key in ("top1", "top5")) for line in LINES}
    ours["teacher-mae-vit-s16"], ours["student-mae-vit-t16"] = (
        (experiment.file.models[name].paper.top1, experiment.file.models[name].paper.top5)
        for name in ("teacher", "scratch")
    )
    assert ours == theirs


def test_the_paper_scale_base_prints_and_claims_what_the_miniature_does():
    miniature, paper_scale = (open_experiment(ROOT / f"experiments/{name}").file for name in (MINIATURE, PAPER_SCALE))
    ours = {name for name in miniature.rows if name.startswith("g-")}
    printed = [
        {name: (row.label, row.group, row.paper) for name, row in file.rows.items() if name not in ours}
        for file in (miniature, paper_scale)
    ]
    assert printed[0] == printed[1]
    assert [claim for claim in miniature.claims if not ours & set(claim.worse)] == paper_scale.claims
    assert (miniature.models, miniature.pictures) == (paper_scale.models, paper_scale.pictures)


def test_the_paper_scale_base_has_the_sizes_of_table_7():
    experiment = open_experiment(ROOT / f"experiments/{PAPER_SCALE}")
    teacher = experiment.config("", {}).teacher
    assert (teacher.depth, teacher.embed_dim, teacher.num_heads, teacher.patch_size) == (12, 384, 6, 16)
    students = [experiment.config(name, {}).student for name in experiment.rows]
    assert {(student.embed_dim, student.position, student.mlp_ratio) for student in students} == {(192, "sincos", 4.0)}

"""One registered entry is enough: an entry of each kind, added to a copy of the package, runs through the pipeline."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_project import environment

pytestmark = pytest.mark.drivers

ROOT = Path(__file__).parents[2]
CENTROID = '''"""Nearest centroid."""
import numpy as np
from typing import Literal
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import ProbeData, ProbeResult, top_k


@EVALUATIONS.register("nearest_centroid", title="Nearest centroid")
def nearest_centroid(data: ProbeData, *, metric: Literal["euclidean", "cosine"] = "cosine") -> ProbeResult:
    """Each test image takes the class whose mean feature is nearest."""
    means = np.stack([data.train.features[data.train.labels == c].mean(axis=0) for c in range(data.classes)])
    scores = data.test.features @ means.T
    if metric == "euclidean":
        scores = 2 * scores - (means**2).sum(axis=1)
    top1, top5 = (top_k(scores.astype(np.float64), data.test.labels, k) for k in (1, 5))
    return ProbeResult(f"nearest-centroid/{metric}-v1", top1, top5, {}, {})
'''
ENTRIES = {
    "losses/guidance.py": '''

@GUIDANCE.register("l1")
def l1(teacher: Tensor, student: Tensor, *, weight: float = 2.0) -> Tensor:
    """Mean absolute difference of probabilities."""
    return weight * (teacher.exp() - student.exp()).abs().mean()
''',
    "losses/aggregation.py": '''

@AGGREGATIONS.register("median")
def median(log_attention: Tensor) -> Tensor:
    """The median head."""
    return log_attention.median(dim=1, keepdim=True).values.log_softmax(dim=-1)
''',
    "losses/signals.py": '''

@SIGNALS.register("again")
def again(teacher: Features, student: Features) -> Pairs:
    """The last block's attention."""
    return [(teacher.log_attention, student.log_attention)]
''',
    "losses/embedding.py": '''

@EMBEDDING_LOSSES.register("cosine")
class Cosine(EmbeddingLoss):
    """One less the cosine of projected and teacher's class token."""

    def __init__(self, setting: Setting, *, weight: float = 0.5) -> None:
        super().__init__(weight)

    def forward(self, teacher: Features, projected: Features) -> Tensor:
        return 1 - F.cosine_similarity(projected.cls_token, teacher.cls_token).mean()
''',
    "training/optimizers.py": '''

@OPTIMIZERS.register("plain")
def plain(module: nn.Module, *, momentum: float = 0.9) -> Optimizer:
    """Plain SGD."""
    from torch.optim import SGD

    return SGD([p for p in module.parameters() if p.requires_grad], lr=0.0, momentum=momentum)
''',
    "data/datasets.py": '''

@DATASETS.register("few_digits")
def few_digits(*, size: int = 16) -> Source:
    """The digits, small."""
    return digits(size=size, test_fraction=0.5)
''',
}
SETTINGS = """
data: {set: {name: few_digits, size: 32}}
distill:
  signal: {name: again}
  aggregation: {name: median}
  attention_loss: {name: l1}
  embedding_loss: {name: cosine}
  recipe: {optimizer: {name: plain}}
probe: {nearest_centroid: {metric: euclidean}}
runtime: {tracking: false}
seeds: [0]
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke experiment with every new entry in use, beside a package that has them."""
    top = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "attndistill", top / "attndistill", ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in ENTRIES.items():
        with (top / "attndistill" / file).open("a") as module:
            module.write(text)
    (top / "attndistill/evaluations/centroids.py").write_text(CENTROID)
    mine = top / "mine"
    mine.mkdir()
    shutil.copy(ROOT / "experiments/smoke/rows.yaml", mine)
    from ruamel.yaml import YAML

    from attndistill.config import overlay, read_yaml

    (mine / "own.yaml").write_text(SETTINGS)
    toy = overlay(read_yaml(ROOT / "experiments/smoke/params.yaml"), read_yaml(mine / "own.yaml"))
    YAML().dump(toy, mine / "params.yaml")
    return top


def attndistill(top: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "attndistill", *words],
        cwd=top / "mine",
        env=environment(PYTHONPATH=str(top)),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_entry_of_each_kind_runs_through_without_another_edit(extended):
    said = attndistill(extended, "pipeline")
    assert "Nearest centroid" in said
    found = json.loads((extended / "mine/results/probes/attndistill.json").read_text())["probes"]
    assert found["nearest_centroid"]["top1"]["protocol"] == "nearest-centroid/euclidean-v1"
    assert 10 < found["nearest_centroid"]["top1"]["mean"] <= 100
    assert "nearest_centroid_top1" in json.loads((extended / "mine/results/metrics.json").read_text())["attndistill"]
    assert "Nearest centroid" in (extended / "mine/outputs/report/index.html").read_text()
    curves = json.loads((extended / "mine/results/training/attndistill.json").read_text())["curves"]["0"]
    assert {"attention", "embedding"} <= set(curves)


def test_it_is_on_the_command_line_in_the_dry_run_and_an_objective_of_a_study(extended):
    shown = attndistill(extended, "config", "--probe.nearest_centroid.metric", "cosine")
    assert "  nearest_centroid:\n    metric: cosine\n" in shown
    assert "nearest centroid" in attndistill(extended, "probe", "--model", "teacher", "--dry-run")
    program = "from attndistill.study.definition import directions; print(directions()['nearest_centroid_top1'])"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(PYTHONPATH=str(extended)), cwd=extended, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == "maximize\n"


def test_a_wrong_option_of_it_is_refused_like_any_other(extended):
    done = subprocess.run(
        [sys.executable, "-m", "attndistill", "config", "--probe.nearest_centroid.metric", "manhattan"],
        cwd=extended / "mine",
        env=environment(PYTHONPATH=str(extended)),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert "probe.nearest_centroid.metric: 'manhattan'; allowed: 'euclidean' or 'cosine'" in done.stderr

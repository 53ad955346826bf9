"""params.yaml is the one place of defaults, and a row changes what it says and nothing else."""

from pathlib import Path

import pytest

from attndistill.config import flat, overlay, read_yaml
from attndistill.core.artifacts import digest_of
from attndistill.experiments import open_experiment
from attndistill.library import configure

ROOT = Path(__file__).parents[2]
# what old digests do not know, and do not need to while it is at its default
ADDED = {
    "targets.precision",
    "views.resampling",
    "views.decoding",
    "distill.data_fraction",
    "distill.probe_every",
    "pretrain.decoder.sees",
}
EXPERIMENTS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/rows.yaml"))


def test_params_yaml_sets_every_field_itself():
    """A default that lives in the code alone would be hidden from DVC, which compares params.yaml."""
    written = flat(read_yaml(ROOT / "params.yaml"))
    config = open_experiment(ROOT).config("", {})
    resolved = flat(config.plain())
    assert set(resolved) - set(flat(config.deciding())) == ADDED
    optional = {key for key, value in resolved.items() if value is None and key.startswith("data.set.")}
    assert set(resolved) - set(written) == optional  # variants' own optional files: nothing is a default too
    assert {key: resolved[key] for key in written} == written


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_of_every_experiment_resolves_and_changes_only_what_it_sets(name):
    experiment = open_experiment(ROOT / f"experiments/{name}")
    base = flat(experiment.config("", {}).plain())
    for item, row in experiment.rows.items():
        changed = flat(experiment.config(item, {}).plain())
        named = tuple(key.removesuffix(".name") for key in row.set)
        different = [key for key in base.keys() | changed.keys() if base.get(key) != changed.get(key)]
        assert all(key.startswith(named) for key in different)


def test_the_command_line_wins_over_the_row_and_the_row_over_the_experiment():
    smoke = open_experiment(ROOT / "experiments/smoke")
    assert smoke.config("", {}).student.embed_dim == smoke.layers[1]["student"]["embed_dim"]
    assert smoke.config("projector_alignment", {}).distill.lambda_ == 0
    assert smoke.config("projector_alignment", {"distill.lambda": 0.3}).distill.lambda_ == 0.3


def test_laying_over_changes_neither_layer():
    base, changes = {"a": {"name": "x", "k": 1}, "b": [1]}, {"a": {"k": 2}, "b": [2]}
    assert overlay(base, changes) == {"a": {"name": "x", "k": 2}, "b": [2]}
    assert base == {"a": {"name": "x", "k": 1}, "b": [1]}
    assert changes == {"a": {"k": 2}, "b": [2]}


def test_the_precision_of_stored_answers_is_in_digests_where_it_is_not_fp32():
    as_before = {"targets": {"cache": True, "views": 40, "verify": 64, "extra": []}}
    assert configure().digest("targets") == digest_of(as_before)
    in_bf16 = configure({"targets.precision": "bf16"})
    assert in_bf16.digest("targets") == digest_of({"targets": as_before["targets"] | {"precision": "bf16"}})
    assert in_bf16.digest("targets") != configure().digest("targets")


def test_a_digest_changes_with_its_own_sections_alone():
    experiment = open_experiment(ROOT)
    base, other = experiment.config("", {}), experiment.config("", {"student.depth": 7})
    assert base.digest("student") != other.digest("student")
    assert base.digest("teacher", "distill") == other.digest("teacher", "distill")


def test_the_peak_learning_rate_is_base_times_batch_over_256():
    config = open_experiment(ROOT).config(
        "", {"distill.recipe.base_learning_rate": 1.5e-4, "distill.recipe.batch_size": 4096}
    )
    assert config.distill.recipe.peak_learning_rate == pytest.approx(2.4e-3)


def test_a_preset_stands_for_its_sizes_and_sizes_beside_it_win():
    experiment = open_experiment(ROOT)
    config = experiment.config("", {"student.preset": "vit_tiny", "student.num_heads": 6})
    found = config.student.embed_dim, config.student.depth, config.student.num_heads, config.student.patch_size
    assert found == (192, 12, 6, 8)
    with pytest.raises(ValueError, match=r"student.preset: 'vit_huge'; allowed: vit_tiny, "):
        experiment.config("", {"student.preset": "vit_huge"})

"""What params.yaml, rows and the command line may not say: one line with the path, the value and what is allowed."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from attndistill.config import nested, read_yaml
from attndistill.config.method import TeacherField
from attndistill.experiments import open_experiment
from attndistill.losses.fields import teacher_fields

ROOT = Path(__file__).parents[2]
# Sizes of its own, so that a better default recipe changes nothing here.
SIZES = {
    "views.image_size": 32,
    "teacher": {"embed_dim": 64, "num_heads": 4, "patch_size": 4},
    "student": {"embed_dim": 48, "num_heads": 3, "patch_size": 8, "position": "sincos"},
    "pretrain": {"mask_ratio": 0.75, "decoder": {"embed_dim": 32, "num_heads": 4}},
    "distill": {"lambda": 0.1, "projector_depth": 4, "interpolation": True},
    "distill.recipe": {"epochs": 40, "warmup_epochs": 4},
    "distill.aggregation": {"name": "geometric_mean", "temperature": 4.0},
}
DIGITS = open_experiment(ROOT)
LAYERS = [*DIGITS.layers, *(nested({path: value}) for path, value in SIZES.items())]
BASE = replace(DIGITS, layers=LAYERS)
NAN, INFINITY = float("nan"), float("inf")
VIT = "allowed: embed_dim, depth, num_heads, patch_size, mlp_ratio, position"
REFUSED = [
    ({"seeds": [10**16]}, "seeds.0: 10000000000000000; input should be less than 10000000000000000"),
    ({"runtime.threads": 10**8}, "runtime.threads: 100000000; input should be less than or equal to 1024"),
    (
        {"sed.x": 1},
        "sed: unknown key (given {'x': 1}); allowed: seeds, teacher_seed, downloads, data, views, datasets, teacher",
    ),
    (
        {"downloads.dino": {"url": "ftp://x", "sha256": "0" * 64, "unpack": False}},
        "downloads.dino.url: 'ftp://x'; string should match pattern '^(https?|file)://'",
    ),
    (
        {"downloads.dino": {"url": "https://x/y", "sha256": "0" * 64, "unpack": False, "sha": 1}},
        "downloads.dino.sha: unknown key (given 1); allowed: url, sha256, unpack",
    ),
    (
        {"downloads": {"../x": {"url": "https://x/y", "sha256": "0" * 64, "unpack": False}}},
        "downloads: name '../x'; allowed: letters, digits, - and _",
    ),
    (
        {"teacher.source": {"name": "checkpoint", "path": "x.pth", "format": "moco"}},
        "teacher.source: format 'moco'; allowed: auto, dino_full, ibot_full",
    ),
    (
        {"teacher.source": {"name": "checkpoint", "path": "x.pth", "haif": "teacher"}},
        "teacher.source.haif: unknown key (given 'teacher'); allowed: name, path, format, half, timm_name",
    ),
    ({"teacher.source.name": "hub"}, "teacher.source.name: 'hub'; allowed: 'checkpoint', 'timm'"),
    ({"teacher.check": "maybe"}, "teacher.check: 'maybe'; allowed: 'on' or 'off'"),
    ({"student.patch_sise": 4}, f"student.patch_sise: unknown key (given 4); {VIT}"),
    ({"distill.lambda_": 1.0}, "distill.lambda_: unknown key (given 1.0); allowed: projector_depth, "),
    (
        {"distill.aggregation.temprature": 3},
        "distill.aggregation.temprature: unknown key (given 3); allowed: name, temperature",
    ),
    (
        {"distill.recipe.optimizer.beta3": 1},
        "distill.recipe.optimizer.beta3: unknown key (given 1); allowed: name, beta1, beta2, weight_decay",
    ),
    (
        {"distill.aggregation.name": "median"},
        "distill.aggregation.name: 'median'; allowed: 'geometric_mean', 'max', 'min', 'mean', 'none'",
    ),
    ({"distill.recipe.optimizer.name": "lion"}, "distill.recipe.optimizer.name: 'lion'; allowed: 'adamw'"),
    (
        {"probe.knn.name": "logistic"},
        "probe.knn.name: unknown key (given 'logistic'); allowed: neighbours, temperature",
    ),
    ({"student.position": "rotary"}, "student.position: 'rotary'; allowed: 'learnable' or 'sincos'"),
    ({"data.set.name": "idx"}, "data.set.root: missing"),
    ({"student": 3}, "student: 3; allowed: a mapping"),
    ({"student.depth": True}, "student.depth: True; input should be a valid integer"),
    ({"student.depth": "3"}, "student.depth: '3'; input should be a valid integer"),
    ({"student.depth": 3.0}, "student.depth: 3.0; input should be a valid integer"),
    ({"distill.lambda": True}, "distill.lambda: True; input should be a valid number"),
    ({"distill.lambda": -0.1}, "distill.lambda: -0.1; input should be greater than or equal to 0"),
    ({"distill.lambda": NAN}, "distill.lambda: nan; input should be a finite number"),
    ({"distill.aggregation.temperature": INFINITY}, "distill.aggregation.temperature: inf; input should be a finite"),
    ({"views.mean": [0.5, NAN, 0.5]}, "views.mean.1: nan; input should be a finite number"),
    ({"views.scale": [0.5, 0.2]}, "views: scale [0.5, 0.2] must be [smallest, largest]"),
    ({"views.scale": 0.2}, "views.scale: 0.2; allowed: a list"),
    ({"targets.cache": 1}, "targets.cache: 1; allowed: true or false"),
    ({"seeds": [4, 5, 4]}, "seeds: [4, 5, 4]; allowed: one or more integers, all different"),
    ({"seeds": []}, "seeds: []; allowed: one or more integers, all different"),
    ({"seeds": [-1]}, "seeds.0: -1; input should be greater than or equal to 0"),
    ({"probe.knn.neighbours": []}, "probe.knn.neighbours: []; list should have at least 1 item"),
    ({"probe.knn.neighbours": [5, 0]}, "probe.knn.neighbours.1: 0; input should be greater than 0"),
    ({"distill.attention_loss.lowest": 0.9}, "distill.attention_loss.lowest: 0.9; input should be less than"),
    ({"student.num_heads": 5}, "student: embed_dim 48 is not a multiple of num_heads 5"),
    ({"student.embed_dim": 42}, "student: embed_dim 42 is not a multiple of 4, which sincos positions need"),
    ({"pretrain.decoder.num_heads": 3}, "pretrain.decoder: embed_dim 32 is not a multiple of num_heads 3"),
    ({"student.patch_size": 5}, "student.patch_size 5 does not divide views.image_size 32"),
    ({"pretrain.mask_ratio": 0.99}, "pretrain.mask_ratio 0.99 hides all or none of 16 patches (student)"),
    (
        {"distill.aggregation.name": "none"},
        "distill.aggregation none matches heads one to one, but teacher.num_heads is 4 and student.num_heads 3",
    ),
    (
        {"distill.interpolation": False},
        "distill.interpolation is off, but the patch grids differ (teacher.patch_size 4, student.patch_size 8)",
    ),
    (
        {"distill.signal.layers": "all"},
        "distill.signal.layers all needs the teacher's layer_attention, which the cache does not hold: "
        "add layer_attention to targets.extra, or set targets.cache to false",
    ),
    ({"distill.signal.name": "value_norms"}, "distill.signal value_norms needs the teacher's value_norms, which the"),
    (
        {"distill.embedding_loss.name": "patch_tokens"},
        "distill.embedding_loss patch_tokens needs the teacher's patch_tokens, which the cache does not hold",
    ),
    (
        {"distill.embedding_loss.name": "patch_tokens", "distill.lambda": 0.0, "distill.interpolation": False},
        "distill.interpolation is off, but the patch grids differ",
    ),
    (
        {"distill.signal": {"name": "value_norms", "layers": "all"}},
        "distill.signal.layers: unknown key (given 'all'); allowed: name",
    ),
    ({"distill.signal.layers": "first"}, "distill.signal.layers: 'first'; allowed: 'last' or 'all'"),
    (
        {"distill.embedding_loss.name": "dino"},
        "distill.embedding_loss.name: 'dino'; allowed: 'patch_tokens', 'compress'",
    ),
    (
        {"distill.embedding_loss": {"name": "compress", "size": 3}},
        "distill.embedding_loss.size: unknown key (given 3); allowed: name, weight, queue_size, temperature",
    ),
    ({"distill.embedding_loss.weight": 1.0}, "distill.embedding_loss.name: missing"),
    (
        {"targets.extra": ["logits"]},
        "targets.extra.0: 'logits'; allowed: 'layer_attention', 'value_norms' or 'patch_tokens'",
    ),
    ({"targets.extra": ["value_norms", "value_norms"]}, "targets.extra: ['value_norms', 'value_norms']; allowed: each"),
    (
        {"distill.mode": "official_code", "distill.projector_depth": 2},
        "distill: mode official_code with projector_depth 2; allowed: 4 (the published projector reaches",
    ),
    (
        {"distill.mode": "official_code", "distill.embedding_loss.name": "compress"},
        "distill: mode official_code knows the attention of the last block alone; allowed: signal attention with",
    ),
    ({"distill.mode": "code"}, "distill.mode: 'code'; allowed: 'paper' or 'official_code'"),
    ({"probe.projector_layer": 5}, "probe.projector_layer 5; allowed: 0 to distill.projector_depth 4"),
    ({"distill.recipe.warmup_epochs": 40}, "distill.recipe: warmup_epochs 40 must be fewer than epochs 40"),
    ({"distill.alignment_weight": 0.0, "distill.lambda": 0.0}, "distill: alignment_weight and lambda are both 0"),
    ({"attention.images": []}, "attention.images: []; allowed: one test image or more"),
    ({"data.validation_fraction": 0.999}, "data.validation_fraction: 0.999; input should be less than or equal to 0.5"),
    (
        {"runtime.micro_batch_size": 7, "distill.recipe.batch_size": 64, "pretrain.recipe.batch_size": 70},
        "runtime.micro_batch_size 7 does not divide distill.recipe.batch_size 64",
    ),
    ({"student.depth": 3, "student.depth.x": 3}, "student.depth.x: depth is set to a value already"),
    ({"student.depth.x": 3, "student.depth": 3}, "student.depth: settings below it are given already"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_wrong_setting_is_refused_with_its_path_value_and_what_is_allowed(overrides, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole beginning is compared
        BASE.config("", overrides)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_two_problems_are_named_together():
    with pytest.raises(ValueError, match=r"^student.depth: 0; .*greater than 0; targets.views: 0; .*greater than 0$"):
        BASE.config("", {"student.depth": 0, "targets.views": 0})


@pytest.mark.parametrize(
    "changes",
    [
        {"distill.signal.layers": "all", "targets.extra": ["layer_attention"]},
        {"distill.signal.name": "value_norms", "targets.cache": False},
        {"distill.signal.name": "value_norms", "distill.lambda": 0.0},
        {"distill.embedding_loss.name": "patch_tokens", "targets.extra": ["value_norms", "patch_tokens"]},
        {"distill.embedding_loss.name": "compress", "distill.alignment_weight": 0.0, "distill.lambda": 0.0},
    ],
    ids=str,
)
def test_what_the_teacher_can_answer_is_accepted(changes):
    assert set(teacher_fields(BASE.config("", changes).distill)) <= {"layer_attention", "value_norms", "patch_tokens"}


def test_what_a_cache_can_be_asked_for_are_the_optional_fields_of_features():
    from attndistill.core.features import Features

    fields = {field.name for field in dataclasses.fields(Features)} - {"cls_token", "log_attention"}
    assert set(get_args(TeacherField)) == fields


@pytest.mark.parametrize("row", BASE.rows)
def test_without_guidance_neither_heads_nor_grids_have_to_match(row):
    free = {"distill.lambda": 0.0, "distill.aggregation.name": "none", "distill.interpolation": False}
    assert BASE.config(row, free).distill.aggregation.options() == {}


def test_a_new_name_starts_from_that_variants_own_defaults_and_the_same_name_keeps_what_is_set():
    assert BASE.config("", {"distill.aggregation.name": "max"}).distill.aggregation.options() == {"temperature": 10.0}
    same = {"distill.aggregation.name": "geometric_mean"}
    assert BASE.config("", same).distill.aggregation == BASE.config("", {}).distill.aggregation
    changed = {"distill.aggregation.name": "max", "distill.aggregation.temperature": 2.5}
    assert BASE.config("", changed).distill.aggregation.options() == {"temperature": 2.5}


def test_dotted_keys_share_their_sections():
    assert nested({"a.b.c": 1, "a.b.d": 2, "a.e": 3}) == {"a": {"b": {"c": 1, "d": 2}, "e": 3}}


def test_yaml_is_version_1_2_as_dvc_reads_it(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("rate: 1e-4\nswitch: off\nnorway: no\noctal: 010\n")
    assert read_yaml(path) == {"rate": 1e-4, "switch": "off", "norway": "no", "octal": 10}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "is not valid YAML: .*line 2"),
        ("a: 1\na: 2\n", 'is not valid YAML: .*duplicate key "a"'),
        ("- 1\n", "must hold a mapping, not list"),
        ("a: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    ],
)
def test_a_broken_or_hostile_yaml_file_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"params.yaml {message}"):
        read_yaml(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("rows: {teacher: {label: T, set: {}}}", "row name 'teacher' is taken by a pre-trained model"),
        ("rows: {a: {label: A}}", r"rows.a.set: Field required \(given \{'label': 'A'\}\)"),
        ("rows: {a: {label: A, set: {}, sett: {}}}", r"rows.a.sett: Extra inputs are not permitted \(given \{\}\)"),
        (
            "rows: {a: {label: A, set: {teacher.depth: 3}}}",
            "rows.a.set: teacher.depth: a row cannot change downloads, data, views, datasets, teacher",
        ),
        (
            "rows: {a: {label: A, set: {targets: {views: 80}}}}",
            r"rows.a.set: targets.views: a row cannot change .* targets.views",
        ),
        ("rows: {a: {label: A, set: {views.seed: 1}}}", "rows.a.set: views.seed: a row cannot change"),
        ("rows: {a: {label: A, set: {runtime: {threads: 2}}}}", "rows.a.set: runtime.threads: a row cannot change"),
        ("rows: {a: {label: A, set: {downloads.x.unpack: true}}}", "rows.a.set: downloads.x.unpack: a row cannot"),
        ("rows: {a: {label: A, set: {a.b: 1, a: 2}}}", "rows.a.set: a: settings below it are given"),
        ("rows: []", r"rows: Input should be a valid dictionary \(given \[\]\)"),
        ("rows: {}", "rows: Dictionary should have at least 1 item"),
        (
            "rows: {a.b: {label: A, set: {}}}",
            "row name 'a.b'; allowed: letters, digits, _ and, not at its beginning, -",
        ),
        ("rows: {-x: {label: A, set: {}}}", "row name '-x'; allowed: letters, digits, _ and, not at its beginning, -"),
        ("rows: {--row: {label: A, set: {}}}", "row name '--row'; allowed: letters, digits, _ and, not at its"),
        ("rows: {a: {label: A, set: {}}}\npictures: [b]", "pictures: unknown 'b'; allowed: a"),
        ("rows: {a: {label: A, set: {}}}\nmodels: {a: {}}", "models: unknown 'a'; allowed: teacher, scratch"),
        (
            "rows: {a: {label: A, set: {}}}\nclaims: [{claim: C, better: [a], worse: [b]}]",
            "claims: unknown 'b'; allowed: teacher, scratch, a",
        ),
        (
            "rows: {a: {label: A, set: {}}}\nclaims: [{claim: C, better: [a, a], worse: [scratch]}]",
            r"claims.0: 2 better rows beside 1 worse ones; allowed: pairs",
        ),
        (
            "rows: {a: {label: A, set: {}}}\nclaims: [{claim: C, better: [a], worse: [scratch], judge: no_worse}]",
            r"claims.0: judge no_worse with no margin; allowed: no_worse has a margin, the others have none",
        ),
        (
            "rows: {a: {label: A, set: {}}}\nclaims: [{claim: C, better: [a], worse: [scratch], margin: 1}]",
            r"claims.0: judge every with a margin of 1; allowed: no_worse has a margin",
        ),
        (
            "rows: {a: {label: A, set: {}}}\nclaims: [{claim: C, better: [a], worse: [scratch], judge: most}]",
            r"claims.0.judge: Input should be 'every', 'mean' or 'no_worse' \(given 'most'\)",
        ),
    ],
)
def test_a_wrong_rows_file_is_refused_by_name(tmp_path, rows, message):
    (tmp_path / "rows.yaml").write_text(rows)
    with pytest.raises(ValueError, match=message):
        open_experiment(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "distill.lambda: 0.3",
            "distill.lambda: keys with dots belong to rows .*; allowed here: distill: {lambda: ...}",
        ),
        ("distill: {recipe.epochs: 3}", "recipe.epochs: keys with dots belong to rows and the command line; allowed "),
        ("a.b.c: {d: 1}", "allowed here: a: {b: {c: ...}}$"),
    ],
)
def test_a_key_with_dots_in_an_experiments_settings_is_told_where_it_belongs(tmp_path, text, said):
    (tmp_path / "rows.yaml").write_text((ROOT / "rows.yaml").read_text())
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=said.replace("{", r"\{").replace("...", r"\.\.\.")):
        open_experiment(tmp_path)


@pytest.mark.parametrize("place", ["experiments/one/deep", "experiments", "experiments/one/outputs/data"])
def test_what_lies_within_an_experiment_is_no_experiment_whatever_it_holds(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "experiments/one", tmp_path / place):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("params.yaml", "rows.yaml"):
            (folder / name).write_text((ROOT / "experiments/smoke" / name).read_text())
    for given in (place, f"{place}/../{Path(place).name}", f"{place}/outputs/.."):
        (tmp_path / place / "outputs").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"is no experiment's folder; allowed: a project's own folder, or one dir"):
            open_experiment(Path(given))
    assert open_experiment(Path("experiments/one/../one")).folder == tmp_path / "experiments/one"


def test_a_copy_that_dvc_runs_within_an_experiment_is_a_project_of_its_own(tmp_path):
    copy = tmp_path / "experiments/one/.dvc/tmp/exps/tmp1/experiments/one"
    for folder in (tmp_path, copy, copy.parents[1]):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("params.yaml", "rows.yaml"):
            (folder / name).write_text((ROOT / "experiments/smoke" / name).read_text())
    assert open_experiment(copy).folder == copy
    assert open_experiment(copy.parents[1]).folder == copy.parents[1]

"""What is counted of the stages' models, against the textbook's formulae, exactly where the formula is exact.

D width, T tokens, N patches, H heads, S side of an image; E the teacher's width.
"""

from pathlib import Path

import pytest

from attndistill.config import Config
from attndistill.costs.models import (
    backbone_reading,
    cache_bytes,
    distillation_step,
    masked_autoencoding_step,
    projected_width,
    projector_parameters,
    teacher_reading,
)
from attndistill.experiments import open_experiment

ROOT = Path(__file__).parents[2]
EXPERIMENT = open_experiment(ROOT / "experiments/imagenet_subset")
D, T, H, E, S = 192, 197, 6, 384, 224  # of the table's first student
DEPTH = 12
PLAIN = "a-heads-6-pa"
P_WEIGHTS = D * 2 * D + 2 * D * D + D * 2 * D + 2 * D * E


def row(name: str, **overrides: object) -> Config:
    return EXPERIMENT.config(name, overrides)


def block(tokens: int, width: int) -> int:
    """FLOPs forward: qkv, projection and MLP of ratio 4; logits and their use."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


def test_the_teacher_s_flops_are_eleven_blocks_and_an_embedding_and_little_for_the_last_block():
    without_last = 2 * (T - 1) * 3 * 16**2 * E + (DEPTH - 1) * block(T, E)
    assert without_last < teacher_reading(row(PLAIN)).flops < without_last + 0.1 * block(T, E)


def test_a_student_s_step_is_three_forward_passes_but_for_the_gradient_of_pixels():
    embedding = 2 * (T - 1) * 3 * 16**2 * D
    forward = backbone_reading(row(PLAIN), row(PLAIN).student.plain()).flops
    assert distillation_step(row(PLAIN)).flops == 3 * (forward + 2 * P_WEIGHTS) - embedding


def test_masked_autoencoding_shows_the_encoder_a_quarter_of_the_patches_and_the_decoder_all():
    config = row(PLAIN)
    encoder, decoder = DEPTH * block(1 + 49, D), 8 * block(T, 512)
    counted = masked_autoencoding_step(config, config.student.plain()).flops
    assert 3 * (encoder + decoder) < counted < 3.1 * (encoder + decoder)


def test_patch_token_alignment_costs_a_whole_last_block_and_p_on_every_patch():
    extra = distillation_step(row("c-patch-align")).flops - distillation_step(row(PLAIN)).flops
    assert extra == 3 * block(T, D) + 6 * (T - 1) * P_WEIGHTS


def test_attention_of_all_layers_costs_a_class_token_query_in_each_of_them():
    forward, backward = 24 * D**2 + 4 * H * T * D, 2 * (4 * D**2 + 2 * H * T * D)  # backward: through the logits alone
    extra = distillation_step(row("c-attn-all-layers")).flops - distillation_step(row("a-heads-6-attn")).flops
    assert extra == (DEPTH - 1) * (forward + backward)


def test_value_norms_cost_the_values_of_every_token_of_the_last_block():
    tokens = 1 + 7 * 7
    extra = distillation_step(row("f-value-norm")).flops - distillation_step(row("f-attndistill")).flops
    assert extra == 3 * 2 * tokens * D**2


def test_compress_costs_two_rows_of_similarities_and_the_queue():
    anchors = 128_000
    plain, compress = distillation_step(row(PLAIN)), distillation_step(row("c-compress-pa"))
    assert compress.flops - plain.flops == 3 * 2 * E * anchors  # teacher and student forward, the student backward
    assert compress.queue == 4 * E * anchors + 8  # and the place of the oldest
    assert compress.activations - plain.activations == pytest.approx(2 * 4 * anchors, rel=0.01)  # fp32 in bf16 too
    assert plain.queue == 0


@pytest.mark.parametrize(("precision", "wide", "narrow"), [("fp32", 4, 4), ("bf16", 4, 2)])
def test_activations_are_ten_widths_of_a_token_and_one_attention_matrix_a_block(precision, wide, narrow):
    residuals, qkv, mixed, hidden = 2, 3, 1, 4  # widths; models/lean.py computes norms and GELU again
    kept = wide * residuals * T * D + narrow * ((qkv + mixed + hidden) * T * D + H * T**2)
    counted = distillation_step(row(PLAIN, **{"distill.recipe.precision": precision})).activations
    assert (DEPTH - 1) * kept < counted < DEPTH * kept


def test_a_frozen_backbone_holds_two_attention_matrices_and_six_rows_of_tokens_at_most():
    logits_and_softmax, tokens = 2 * H * T**2, 6 * T * E  # query, key, value, the residual, its norm, qkv's copy
    assert teacher_reading(row(PLAIN)).largest == 4 * (logits_and_softmax + tokens + 3 * S**2)


def test_a_live_teacher_answers_what_the_row_asks_and_a_cache_what_it_stores():
    asked = teacher_reading(row("c-patch-align")).flops - teacher_reading(row(PLAIN)).flops
    assert asked == block(T, E)
    stored = row(PLAIN, **{"targets.cache": True, "targets.extra": ["patch_tokens"]})
    assert teacher_reading(stored).flops == teacher_reading(row("c-patch-align")).flops


def test_a_cached_answer_is_a_class_token_and_a_row_of_every_head_in_half_precision():
    assert cache_bytes(row(PLAIN)) == 2 * (E + H * T)


def test_p_has_the_parameters_of_its_layers_and_its_norm():
    assert projector_parameters(row(PLAIN)) == P_WEIGHTS + (2 * D + D + 2 * D + E) + 2 * E


@pytest.mark.parametrize(("name", "width"), [("d-p4-eval1", 2 * D), ("d-p4-eval2", D), ("d-p4-eval4", E)])
def test_a_probe_after_a_layer_of_p_judges_features_of_its_width(name, width):
    assert projected_width(row(name)) == width


def test_nothing_is_computed_or_allocated():
    step = distillation_step(row(PLAIN, **{"student.embed_dim": 192 * 64, "student.num_heads": 6}))
    assert step.trained * 4 > 80e9  # bytes of weights: no machine that runs tests holds them

"""The target cache: the live teacher's answers to float16, of the very views, checked before it is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from attndistill.core.features import Features
from attndistill.data.loading import Batch, view_batch
from attndistill.data.store import ArrayImages
from attndistill.data.views import ViewRecipe
from attndistill.models.vit import build_vit
from attndistill.targets import CachedTargets, LiveTeacher, bytes_per_answer, write_targets

CPU = torch.device("cpu")
RECIPE = ViewRecipe(3, 16, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "sincos"}
IDENTITY = {"teacher": "t1", "data": "d1", "views": "v1"}
COUNT, VIEWS = 11, 3


@pytest.fixture
def images() -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 20, 20, 3), dtype=np.uint8)
    return ArrayImages(pixels, np.zeros(COUNT, np.int64), [str(i) for i in range(COUNT)])


@pytest.fixture
def teacher() -> LiveTeacher:
    vit = build_vit(16, 0, **VIT)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return LiveTeacher(vit, CPU)


def write(teacher: LiveTeacher, images: ArrayImages, to: Path, batch_size: int = 4) -> dict:
    options = {"identity": IDENTITY, "views": VIEWS, "verify": 300, "batch_size": batch_size}
    return write_targets(teacher, images, RECIPE, to, unfinished=to.parent / "unfinished", processes=1, **options)


def test_the_cache_answers_like_the_live_teacher_for_every_view_and_image(teacher, images, tmp_path):
    manifest = write(teacher, images, tmp_path / "targets")
    cache = CachedTargets(tmp_path / "targets", CPU, IDENTITY)
    indices = np.array([9, 0, 4, 10])
    for view in range(VIEWS):
        batch = view_batch(images, RECIPE, view, indices)
        live, cached = teacher(batch), cache(batch)
        torch.testing.assert_close(cached.cls_token, live.cls_token, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(cached.log_attention, live.log_attention, rtol=2e-3, atol=2e-3)
        assert (live.cls_token[0] - live.cls_token[1]).abs().max() > 0.1  # entries differ: mixing them up would show
    other_view = teacher(view_batch(images, RECIPE, 1, indices)).cls_token
    assert (cache(batch).cls_token - other_view).abs().max() > 0.1
    assert manifest["bytes_per_view_and_image"] == 2 * (16 + 2 * 17)
    assert cache(batch).cls_token.dtype == cache(batch).log_attention.dtype == torch.float32


def test_the_teacher_gives_no_gradients_and_stays_in_evaluation_mode(teacher, images):
    features = teacher(view_batch(images, RECIPE, 0, np.array([1])))
    assert not teacher.vit.training
    assert not features.cls_token.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.vit.parameters())


@pytest.mark.parametrize("changed", IDENTITY)
def test_a_cache_of_another_teacher_other_data_or_other_views_is_refused_naming_it(teacher, images, tmp_path, changed):
    write(teacher, images, tmp_path / "targets")
    with pytest.raises(ValueError, match=f"cached for {changed} '{IDENTITY[changed]}', this run has 'another'"):
        CachedTargets(tmp_path / "targets", CPU, IDENTITY | {changed: "another"})


FIELDS = ("layer_attention", "value_norms", "patch_tokens")


def test_fields_that_were_asked_for_are_cached_too_and_their_bytes_are_predicted(teacher, images, tmp_path):
    asked = LiveTeacher(teacher.vit, CPU, FIELDS)
    manifest = write(asked, images, tmp_path / "targets")
    cache = CachedTargets(tmp_path / "targets", CPU, IDENTITY, FIELDS)
    batch = view_batch(images, RECIPE, 1, np.array([9, 0, 4]))
    live, cached = asked(batch), cache(batch)
    for field in FIELDS:
        torch.testing.assert_close(getattr(cached, field), getattr(live, field), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(cached.layer_attention[-1], cached.log_attention)
    assert (live.layer_attention[0] - live.layer_attention[1]).abs().max() > 0.01
    with torch.device("meta"):
        vit = build_vit(16, 0, **{**VIT, "position": "learnable"})
    written = sum(path.stat().st_size for path in (tmp_path / "targets").glob("*.npy"))
    predicted = bytes_per_answer(vit, FIELDS)
    assert manifest["bytes_per_view_and_image"] == predicted
    assert 0 <= written - VIEWS * COUNT * predicted <= 5 * 128  # headers


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_the_cache_lacks_is_refused_saying_what_to_set(field, teacher, images, tmp_path):
    write(teacher, images, tmp_path / "targets")
    with pytest.raises(ValueError, match=f"holds no {field} of the teacher: run `targets` with {field} in targets.ex"):
        CachedTargets(tmp_path / "targets", CPU, IDENTITY, (field,))


def test_a_cache_that_the_disk_cannot_hold_is_refused_before_it_costs_anything(teacher, images, tmp_path):
    with pytest.raises(ValueError, match=r"would take .* GB, and .* GB are free: ask for fewer targets\.views"):
        write_targets(
            teacher, images, RECIPE, tmp_path / "targets", unfinished=tmp_path / "unfinished", identity=IDENTITY,
            views=10**15, verify=1, batch_size=4, processes=1,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_switched_off_cache_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json does not exist"):
        CachedTargets(tmp_path, CPU, IDENTITY)
    (tmp_path / "manifest.json").write_text('{"cached": false}')
    with pytest.raises(ValueError, match=r"holds no cached targets: run `targets` with targets\.cache on"):
        CachedTargets(tmp_path, CPU, IDENTITY)


class Lying(LiveTeacher):
    """Stores one wrong entry: of view 2, image 7, in one of its two parts."""

    part: str

    def __call__(self, batch: Batch) -> Features:
        answer = super().__call__(batch)
        if len(batch.indices) > 1 and batch.epoch == 2:  # verification asks for images one by one
            getattr(answer, self.part)[batch.indices == 7] += 0.05
        return answer


@pytest.mark.parametrize("part", ["cls_token", "log_attention"])
def test_one_wrong_entry_is_caught_by_verification_and_nothing_is_left(part, teacher, images, tmp_path):
    liar = Lying(teacher.vit, CPU)
    liar.part = part
    with pytest.raises(
        AssertionError, match=rf"{part}\.npy: entry \(view 2, image 7\) is not what the teacher answers"
    ):
        write(liar, images, tmp_path / "targets")
    assert list(tmp_path.iterdir()) == []


def test_a_probability_of_zero_is_stored_as_a_finite_logarithm(images, tmp_path, teacher):
    class Peaked(LiveTeacher):
        def __call__(self, batch: Batch) -> Features:
            answer = super().__call__(batch)
            attention = torch.full_like(answer.log_attention, -1e6)
            attention[..., 0] = 0
            return Features(answer.cls_token, attention)

    write(Peaked(teacher.vit, CPU), images, tmp_path / "targets")
    cached = CachedTargets(tmp_path / "targets", CPU, IDENTITY)(view_batch(images, RECIPE, 0, np.array([1])))
    assert cached.log_attention.isfinite().all()


def test_views_computed_side_by_side_are_the_same_bytes(teacher, images, tmp_path):
    write(teacher, images, tmp_path / "alone")
    side_by_side = {"identity": IDENTITY, "views": VIEWS, "verify": 8, "batch_size": 4, "processes": 2}
    write_targets(teacher, images, RECIPE, tmp_path / "together", unfinished=tmp_path / "unfinished", **side_by_side)
    for name in ("cls_token.npy", "log_attention.npy", "manifest.json"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "together" / name).read_bytes()


class Dying(LiveTeacher):
    """Is stopped at the first batch of view 2."""

    def __call__(self, batch: Batch) -> Features:
        if batch.epoch == 2:
            raise KeyboardInterrupt
        return super().__call__(batch)


def test_a_cache_goes_on_where_it_was_stopped_and_ends_with_the_same_bytes(teacher, images, tmp_path):
    write(teacher, images, tmp_path / "whole" / "targets")
    with pytest.raises(KeyboardInterrupt):
        write(Dying(teacher.vit, CPU), images, tmp_path / "stopped" / "targets")
    assert not (tmp_path / "stopped" / "targets").exists()
    answered = []

    class Counting(LiveTeacher):
        def __call__(self, batch: Batch) -> Features:
            if len(batch.indices) > 1:  # verification asks for images one by one
                answered.append(batch.epoch)
            return super().__call__(batch)

    write(Counting(teacher.vit, CPU), images, tmp_path / "stopped" / "targets")
    assert set(answered) == {2}
    for path in (tmp_path / "whole" / "targets").iterdir():
        assert (tmp_path / "stopped" / "targets" / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in (tmp_path / "stopped").iterdir()} == {"targets"}

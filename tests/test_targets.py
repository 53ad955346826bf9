"""The target cache: the live teacher's answers to float16, of the very views, checked before it is named."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attndistill.core.artifacts import file_digest
from attndistill.core.features import Features
from attndistill.data.loading import Batch, view_batch
from attndistill.data.store import ArrayImages
from attndistill.data.views import ViewRecipe
from attndistill.library import configure
from attndistill.models.vit import build_vit
from attndistill.runs import Execution, make_accelerator
from attndistill.targets import (
    CachedTargets,
    LiveTeacher,
    bytes_per_answer,
    identity_in,
    verify_targets,
    write_targets,
)

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


def write(teacher: LiveTeacher, images: ArrayImages, to: Path, **changes: Any) -> dict:
    options = {"identity": IDENTITY, "views": VIEWS, "verify": 300, "batch_size": 4, "processes": 1, **changes}
    return write_targets(teacher, images, RECIPE, to, unfinished=to.parent / "unfinished", **options)


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


def test_the_manifest_is_these_bytes(teacher, images, tmp_path):
    """What is in a cache names it, for DVC too: no digest, no time."""
    manifest = write(teacher, images, tmp_path / "targets")
    text = (tmp_path / "targets/manifest.json").read_text()
    assert json.loads(text) == manifest
    assert (
        text
        == """{
  "bytes_per_view_and_image": 100,
  "cached": true,
  "format": "attndistill-targets/1",
  "grid": [
    4,
    4
  ],
  "heads": 2,
  "identity": {
    "data": "d1",
    "teacher": "t1",
    "views": "v1"
  },
  "images": 11,
  "views": 3
}
"""
    )


def damaged_manifest(**changes: Any) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / "manifest.json"
        path.write_text(
            json.dumps({k: v for k, v in (json.loads(path.read_text()) | changes).items() if v != "left out"})
        )

    return damage


def put(name: str, values: Any) -> Callable[[Path], None]:
    return lambda directory: np.save(directory / name, values)


def change(name: str, view: int, image: int, value: float) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        np.lib.format.open_memmap(directory / name, mode="r+")[view, image] = value

    return damage


def resize(name: str, by: int) -> Callable[[Path], None]:
    return lambda directory: os.truncate(directory / name, (directory / name).stat().st_size + by)


HALF = np.float16
DAMAGES = {
    "no list of numbers": (damaged_manifest(grid=[4]), "manifest.json describes no targets .grid: List should have at"),
    "a text for a number": (
        damaged_manifest(views="3"),
        "manifest.json describes no targets .views: Input should be a v",
    ),
    "no views": (
        damaged_manifest(views=0),
        "manifest.json describes no targets .views: Input should be greater than 0",
    ),
    "no heads": (damaged_manifest(heads="left out"), "manifest.json describes no targets .heads: Field required"),
    "another format": (damaged_manifest(format="x/2"), "manifest.json describes no targets .format: Input should be"),
    "unknown words": (damaged_manifest(more=1), "manifest.json describes no targets .more: Extra inputs"),
    "other heads": (
        damaged_manifest(heads=3),
        r"log_attention.npy is \(3, 11, 2, 17\) float16, described as \(3, 11, 3, 17",
    ),
    "another grid": (damaged_manifest(grid=[5, 5]), r"log_attention.npy is .*, described as \(3, 11, 2, 26\)"),
    "more views": (damaged_manifest(views=4), r"cls_token.npy is \(3, 11, 16\) float16, described as \(4, 11, 16\)"),
    "fewer images": (
        damaged_manifest(images=10),
        r"cls_token.npy is \(3, 11, 16\) float16, described as \(3, 10, 16\)",
    ),
    "other bytes": (damaged_manifest(bytes_per_view_and_image=99), "holds 100 bytes a view and image, described as 99"),
    "no object": (
        lambda directory: (directory / "manifest.json").write_text("[1]"),
        "describes no targets .Input should",
    ),
    "floats": (put("cls_token.npy", np.zeros((3, 11, 16), np.float32)), r"cls_token.npy is \(3, 11, 16\) float32"),
    "another width": (
        put("cls_token.npy", np.zeros((3, 11, 8), HALF)),
        "holds 84 bytes a view and image, described as",
    ),
    "one number": (put("cls_token.npy", HALF(1)), r"cls_token.npy is (missing or damaged|\(\) float16)"),
    "objects": (put("cls_token.npy", np.array([None])), "cls_token.npy is missing or damaged"),
    "by columns": (put("cls_token.npy", np.zeros((3, 11, 16), HALF, order="F")), "cls_token.npy has not the size"),
    "a field more": (put("value_norms.npy", np.ones((3, 11, 2, 17), HALF)), "holds 168 bytes a view and image"),
    "a field of one number": (
        put("layer_attention.npy", np.ones((1,), HALF)),
        r"layer_attention.npy is \(1,\) float16",
    ),
    "an array that is missing": (
        lambda directory: (directory / "cls_token.npy").unlink(),
        "cls_token.npy is missing or",
    ),
    "an array cut short": (resize("log_attention.npy", -2), "log_attention.npy is missing or damaged"),
    "an array with more": (resize("log_attention.npy", 2), "log_attention.npy has not the size that it says"),
    "no array": (
        lambda directory: (directory / "cls_token.npy").write_bytes(b"\x93NUMPY\x01\x00\x06\x00{('':\n"),
        "damaged",
    ),
    "infinities": (
        change("cls_token.npy", 0, 0, np.inf),
        r"cls_token.npy holds what no teacher answers \(view 0, image 0",
    ),
    "no probabilities": (
        change("log_attention.npy", 2, 10, 0.0),
        r"log_attention.npy holds what no teacher answers \(view 2",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_cache_that_is_not_what_its_manifest_says_is_refused_at_opening_in_one_line(
    teacher, images, tmp_path, damage
):
    write(teacher, images, tmp_path / "targets")
    CachedTargets(tmp_path / "targets", CPU, IDENTITY)
    spoil, words = DAMAGES[damage]
    spoil(tmp_path / "targets")
    with pytest.raises(ValueError, match=words) as refused:
        CachedTargets(tmp_path / "targets", CPU, IDENTITY)
    assert "\n" not in str(refused.value)
    assert "remove the folder and run `targets` again" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cls_token", np.nan),
        ("log_attention", -1.0),
        ("layer_attention", -np.inf),
        ("value_norms", -1.0),
        ("patch_tokens", np.inf),
    ],
)
def test_verification_of_a_cache_looks_at_every_value_and_gives_every_files_digest(
    teacher, images, tmp_path, name, value
):
    write(LiveTeacher(teacher.vit, CPU, FIELDS), images, tmp_path / "targets")
    found = verify_targets(tmp_path / "targets")
    assert found == {path.name: file_digest(path) for path in (tmp_path / "targets").iterdir()}
    assert len(found) == 6
    change(f"{name}.npy", 1, 7, value)(tmp_path / "targets")
    with pytest.raises(ValueError, match=rf"{name}.npy holds what no teacher answers \(view 1, image 0 to 10\)"):
        verify_targets(tmp_path / "targets")


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


class Answering(LiveTeacher):
    """Answers one number somewhere in place of its own."""

    field, view, value = "cls_token", 1, 0.0

    def __call__(self, batch: Batch) -> Features:
        answer = super().__call__(batch)
        if batch.epoch == self.view:
            getattr(answer, self.field)[batch.indices == 7, ..., -1] = self.value
        return answer


def answering(teacher: LiveTeacher, field: str, value: float) -> Answering:
    made = Answering(teacher.vit, CPU, FIELDS)
    made.field, made.value = field, value
    return made


@pytest.mark.parametrize("value", [-1e6, -torch.inf])
def test_a_probability_of_zero_is_stored_as_a_finite_logarithm(images, tmp_path, teacher, value):
    class Peaked(LiveTeacher):
        def __call__(self, batch: Batch) -> Features:
            answer = super().__call__(batch)
            attention = torch.full_like(answer.log_attention, value)
            attention[..., 0] = 0
            return Features(answer.cls_token, attention)

    write(Peaked(teacher.vit, CPU), images, tmp_path / "targets")
    cached = CachedTargets(tmp_path / "targets", CPU, IDENTITY)(view_batch(images, RECIPE, 1, np.array([7])))
    assert cached.log_attention[..., 1:].unique().tolist() == [-65504.0]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("field", "count"), [("cls_token", 1), ("patch_tokens", 16), ("value_norms", 2)])
def test_values_that_are_cut_to_float16_are_counted_in_one_line(
    images, tmp_path, teacher, capfd, field, count, processes
):
    lying = answering(teacher, field, -7e4)
    options = {"identity": IDENTITY, "views": VIEWS, "verify": 0, "batch_size": 4, "processes": processes}
    write_targets(lying, images, RECIPE, tmp_path / "targets", unfinished=tmp_path / "unfinished", **options)
    assert (
        capfd.readouterr().out == f"targets: {count} values of {field} were cut to float16's range, -65504 to 65504\n"
    )


def test_nothing_is_said_of_values_that_fit(images, tmp_path, teacher, capfd):
    write(answering(teacher, "cls_token", 65504.0), images, tmp_path / "targets")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [("cls_token", torch.nan), ("cls_token", -torch.inf), ("patch_tokens", torch.inf), ("log_attention", torch.nan)],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_an_answer_that_is_not_finite_is_refused_naming_view_and_image(
    images, tmp_path, teacher, field, value, processes
):
    options = {"identity": IDENTITY, "views": VIEWS, "verify": 0, "batch_size": 4, "processes": processes}
    with pytest.raises(FloatingPointError, match=rf"teacher's {field} is not finite for view 1, image indices \[7\]"):
        write_targets(
            answering(teacher, field, value), images, RECIPE, tmp_path / "targets", unfinished=tmp_path / "u", **options
        )
    assert not (tmp_path / "targets").exists()


def test_views_computed_side_by_side_are_the_same_bytes(teacher, images, tmp_path):
    write(teacher, images, tmp_path / "alone")
    side_by_side = {"identity": IDENTITY, "views": VIEWS, "verify": 8, "batch_size": 4, "processes": 2}
    write_targets(teacher, images, RECIPE, tmp_path / "together", unfinished=tmp_path / "unfinished", **side_by_side)
    for name in ("cls_token.npy", "log_attention.npy", "manifest.json"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "together" / name).read_bytes()


@pytest.mark.parametrize(("workers", "processes"), [(1, 1), (2, 1), (1, 2)])
def test_loader_processes_change_no_byte(teacher, images, tmp_path, workers, processes):
    write(teacher, images, tmp_path / "alone" / "targets", verify=4)
    write(teacher, images, tmp_path / "read" / "targets", workers=workers, processes=processes, verify=4)
    assert files(tmp_path / "read") == files(tmp_path / "alone")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cache_killed_while_loader_processes_read_for_it_is_resumed_to_the_same_bytes(
    teacher, images, tmp_path, processes
):
    class Killed(LiveTeacher):
        def __call__(self, batch: Batch) -> Features:
            if batch.epoch == 2 and batch.indices[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    write(teacher, images, tmp_path / "whole" / "targets", verify=4)
    if (child := os.fork()) == 0:
        with suppress(BaseException):  # with processes it is told that one of them was killed
            write(
                Killed(teacher.vit, CPU),
                images,
                tmp_path / "killed" / "targets",
                workers=2,
                processes=processes,
                verify=4,
            )
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert {path.name for path in (tmp_path / "killed" / "unfinished").glob("view-*")} == {"view-0.json", "view-1.json"}
    write(teacher, images, tmp_path / "killed" / "targets", workers=2, processes=processes, verify=4)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def in_bf16(teacher: LiveTeacher, fields: tuple[str, ...] = ()) -> LiveTeacher:
    return LiveTeacher(teacher.vit, CPU, fields, "bf16")


def test_answers_in_bf16_are_near_those_in_fp32_and_are_other_ones(teacher, images, tmp_path):
    write(LiveTeacher(teacher.vit, CPU, FIELDS), images, tmp_path / "fp32" / "targets", verify=4)
    write(in_bf16(teacher, FIELDS), images, tmp_path / "bf16" / "targets", verify=4)
    for field in ("cls_token", "log_attention", *FIELDS):
        full, half = (np.load(tmp_path / way / f"targets/{field}.npy").astype(np.float32) for way in ("fp32", "bf16"))
        assert half.shape == full.shape
        apart = np.linalg.norm(half - full) / np.linalg.norm(full)
        assert 1e-4 < apart < 1e-2, field


def test_answers_in_bf16_are_those_of_a_step_in_bf16(teacher, images):
    asked, batch = list[Features](), view_batch(images, RECIPE, 1, np.arange(COUNT))

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, batch: Batch) -> torch.Tensor:
            asked.append(teacher(batch))
            return self.weight

    recipe = configure({"distill.recipe.precision": "bf16"}).distill.recipe
    make_accelerator(Execution(CPU), recipe).prepare(Step())(batch)
    stored = in_bf16(teacher)(batch)
    assert stored.cls_token.equal(asked[0].cls_token)
    assert stored.log_attention.equal(asked[0].log_attention)
    assert not stored.cls_token.equal(teacher(batch).cls_token)


def test_a_gpu_without_bf16_is_refused_before_the_teacher_goes_there(teacher, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match=r"^targets\.precision bf16: this GPU has no bf16; allowed: fp32$"):
        LiveTeacher(teacher.vit, torch.device("cuda"), (), "bf16")


def test_an_entry_of_another_image_is_caught_in_bf16_too(teacher, images, tmp_path):
    class Mixing(LiveTeacher):
        def __call__(self, batch: Batch) -> Features:
            answer = super().__call__(batch)
            turned = answer.cls_token.roll(1, 0) if batch.epoch == 2 else answer.cls_token
            return Features(turned, answer.log_attention)

    with pytest.raises(AssertionError, match=r"cls_token\.npy: entry \(view 2, image \d+\) is not what the teacher"):
        write(Mixing(teacher.vit, CPU, (), "bf16"), images, tmp_path / "targets", verify=32)


def test_a_precision_is_part_of_the_identity_where_it_is_not_fp32():
    assert identity_in("fp32", IDENTITY) == IDENTITY
    assert identity_in("bf16", IDENTITY) == IDENTITY | {"precision": "bf16"}


@pytest.mark.parametrize(("stored", "wanted"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_a_cache_of_another_precision_is_refused_in_one_line(teacher, images, tmp_path, stored, wanted):
    folder = tmp_path / "targets"
    write(LiveTeacher(teacher.vit, CPU, (), stored), images, folder, identity=identity_in(stored, IDENTITY), verify=1)
    CachedTargets(folder, CPU, identity_in(stored, IDENTITY))
    words = f"^{folder}: cached for precision '{stored}', this run has '{wanted}'; run `targets` again$"
    with pytest.raises(ValueError, match=words):
        CachedTargets(folder, CPU, identity_in(wanted, IDENTITY))


def test_ctrl_c_is_left_to_the_process_that_the_loaders_read_for(teacher, images, tmp_path):
    class Interrupted(ArrayImages):
        def crops(self, *given: Any) -> torch.Tensor:
            if torch.utils.data.get_worker_info():
                os.kill(os.getpid(), signal.SIGINT)  # as a terminal sends it to every process
            return super().crops(*given)

    write(teacher, images, tmp_path / "alone" / "targets", verify=1)
    disturbed = Interrupted(images.images, images.labels, images.names)
    write(teacher, disturbed, tmp_path / "disturbed" / "targets", verify=1, workers=1)
    assert files(tmp_path / "disturbed") == files(tmp_path / "alone")


class Dying(LiveTeacher):
    """Is stopped at the first batch of view 2."""

    def __call__(self, batch: Batch) -> Features:
        if batch.epoch == 2:
            raise KeyboardInterrupt
        return super().__call__(batch)


def test_a_cache_is_resumed_where_it_was_stopped_and_ends_with_the_same_bytes(teacher, images, tmp_path):
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


def flip(path: Path, view: int) -> None:
    with path.open("r+b") as file:
        file.seek(128 + view * COUNT * 32 + 5)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


LEFT = {
    "a flipped bit": (lambda left: flip(left / "arrays/cls_token.npy", 1), {1, 2}),
    "an array cut short": (lambda left: os.truncate(left / "arrays/cls_token.npy", 500), {1, 2}),
    "an array of another shape": (
        lambda left: np.save(left / "arrays/cls_token.npy", np.zeros((3, 4), HALF)),
        {0, 1, 2},
    ),
    "no array": (lambda left: (left / "arrays/cls_token.npy").write_bytes(b"\x93NUMPY"), {0, 1, 2}),
    "an array that is missing": (lambda left: (left / "arrays/log_attention.npy").unlink(), {0, 1, 2}),
    "no arrays": (lambda left: shutil.rmtree(left / "arrays"), {0, 1, 2}),
    "a mark that is none": (lambda left: (left / "view-0.json").write_text("{"), {0, 2}),
    "a mark of another kind": (lambda left: (left / "view-0.json").write_text("[]"), {0, 2}),
    "a finished manifest": (lambda left: (left / "arrays/manifest.json").write_text("{}"), {2}),
}


@pytest.mark.parametrize("left", LEFT)
def test_an_unfinished_cache_that_was_damaged_is_made_again_where_it_was(teacher, images, tmp_path, left, capfd):
    write(teacher, images, tmp_path / "whole" / "targets")
    with pytest.raises(KeyboardInterrupt):
        write(Dying(teacher.vit, CPU), images, tmp_path / "stopped" / "targets")
    damage, again = LEFT[left]
    damage(tmp_path / "stopped" / "unfinished")
    answered = []

    class Counting(LiveTeacher):
        def __call__(self, batch: Batch) -> Features:
            if len(batch.indices) > 1:
                answered.append(batch.epoch)
            return super().__call__(batch)

    write(Counting(teacher.vit, CPU), images, tmp_path / "stopped" / "targets")
    assert set(answered) == again
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert ("is damaged, and made again" in capfd.readouterr().out) == (again != {2} and left != "no arrays")


def files(directory: Path) -> dict[str, bytes]:
    """Path -> content of every file below, hidden ones too."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("project", [True, False])
def test_a_cache_killed_anywhere_and_started_again_is_the_same_files(teacher, images, tmp_path, killed_at, project):
    def make(directory: Path) -> None:
        options = {"identity": IDENTITY, "views": 2, "verify": 1, "batch_size": 11, "processes": 1}
        write_targets(teacher, images, RECIPE, directory / "targets", unfinished=directory / "unfinished", **options)

    if project:
        (tmp_path / "experiments").mkdir()
        (tmp_path / "params.yaml").touch()
    (tmp_path / "whole").mkdir()
    make(tmp_path / "whole")
    expected, place, event = files(tmp_path / "whole"), tmp_path / "killed", 3
    place.mkdir()
    while killed_at(event, lambda: make(place)):
        assert files(place / "targets") in ({}, {Path(name).name: content for name, content in expected.items()})
        make(place)
        assert files(place) == expected, event
        assert not (tmp_path / ".work" / "tmp").exists()
        shutil.rmtree(place / "targets")
        event += 7
    assert event > 100

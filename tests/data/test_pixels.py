"""How a crop becomes pixels: the quicker decoder gives Pillow's bytes, and other pixels are declared variants."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from torch.nn.functional import interpolate

from attndistill.config import Config
from attndistill.core.artifacts import digest_of
from attndistill.costs.training import Plan, targets
from attndistill.data.decoding import decode, decoded
from attndistill.data.jpeg import without_metadata
from attndistill.data.loading import Schedule, evaluation_batches, training_batches, view_batch
from attndistill.data.shard_writer import ShardWriter
from attndistill.data.shards import ShardImages
from attndistill.data.store import ArrayImages
from attndistill.data.views import Boxes, Pixels, ViewRecipe
from attndistill.experiments import open_experiment
from attndistill.stages.declaration import Item

SIZES = [(1, 1), (3, 5), (8, 8), (16, 17), (33, 47), (64, 100)]
SUBSAMPLINGS = ["444", "422", "420", "440", "411", "Gray"]
ROOT = Path(__file__).parents[2]


def picture(height: int, width: int, seed: int = 0, grain: int = 30, cell: int = 40) -> np.ndarray:
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + draws.integers(-grain, grain + 1, smooth.shape), 0, 255).astype(np.uint8)


def saved(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardImages:
    """A plain JPEG, one that was turned, a PNG and a CMYK JPEG, the upright pictures of 200 x 150 pixels."""
    folder, turned = tmp_path_factory.mktemp("shards"), Image.Exif()
    turned[0x0112] = 6
    files = [
        saved(picture(150, 200, 0)),
        saved(picture(200, 150, 1), exif=turned),
        saved(picture(150, 200, 2), "PNG"),
        saved(picture(150, 200, 3), mode="CMYK"),
    ]
    writer = ShardWriter(folder, "train")
    for file in files:
        writer.add(file, 150, 200)
    writer.finish()
    return ShardImages(folder, "train", np.zeros(4, np.int64), list("abcd"))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [10, 75, 95, 100])
def test_simplejpegs_pixels_are_pillows_whatever_the_subsampling_the_quality_and_the_scale(
    subsampling: str, quality: int
) -> None:
    """Two libjpeg-turbos, each in its own wheel: a version of either that decodes otherwise is seen here."""
    for seed, (height, width) in enumerate(SIZES):
        file = simplejpeg.encode_jpeg(picture(height, width, seed), quality, "RGB", subsampling)
        for shrink in (1, 2, 4, 8) if min(height, width) >= 8 else (1,):
            found, shrunk = decoded(file, shrink)
            assert shrunk == shrink
            np.testing.assert_array_equal(found, np.asarray(decode(file, shrink=shrink)))
            assert found.shape == (-(-height // shrink), -(-width // shrink), 3)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"restart_marker_blocks": 3},
        {"progressive": True, "restart_marker_rows": 1},
        {"keep_rgb": True},
        {"optimize": True, "dpi": (72, 72), "comment": "made up"},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"icc_profile": b"\xff\xe1 \xff\xda" * 50},
        {"xmp": b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'},
        *({"exif": bytes(f"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0{chr(turn)}\0\0\0\0\0\0", "latin1")}
          for turn in range(1, 9)),
    ],
)  # fmt: skip
def test_a_jpeg_of_any_kind_gives_pillows_picture(options: dict[str, object]) -> None:
    for seed, (height, width) in enumerate(SIZES[2:]):
        file = saved(picture(height, width, seed), **options)
        for shrink in (1, 2, 4, 8):
            np.testing.assert_array_equal(decoded(file, shrink)[0], np.asarray(decode(file, shrink=shrink)))


def test_a_plain_jpeg_never_asks_pillow_for_pixels_and_every_other_file_does(monkeypatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr("attndistill.data.decoding.decode", refused)
    pixels = picture(16, 17)
    assert decoded(saved(pixels))[0].shape == decoded(saved(pixels, mode="L"))[0].shape == (16, 17, 3)
    for kind, mode in [("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "I;16"), ("BMP", "RGB"), ("GIF", "L")]:
        grey = np.zeros((4, 4), np.uint16)
        file = saved(grey, kind, mode) if mode == "I;16" else saved(pixels, kind, mode)
        with pytest.raises(AssertionError, match="asked"):
            decoded(file)


def test_pillow_is_asked_about_a_jpeg_only_where_something_may_say_that_it_is_turned() -> None:
    file, turned = saved(picture(16, 17)), Image.Exif()
    turned[0x0112] = 6
    assert without_metadata(file)
    assert without_metadata(saved(picture(16, 17), icc_profile=b"\xff\xe1" * 50))
    assert not without_metadata(saved(picture(16, 17), exif=turned))
    for odd in (b"", file[:2], file[:30], file[:2] + b"\xff" + file[2:], file[:2] + b"\xff\x01" + file[2:], b"GIF89a"):
        assert not without_metadata(odd)


@pytest.mark.parametrize("damage", range(60))
def test_a_damaged_jpeg_is_refused_or_read_as_by_pillow(damage: int) -> None:
    draws = np.random.default_rng(damage)
    file = bytearray(saved(picture(33, 47), quality=75, progressive=bool(damage % 3 == 0)))
    place = int(draws.integers(2, len(file)))
    if damage % 2:
        file = file[:place]
    else:
        file[place : place + 2] = draws.integers(0, 256, 2, dtype=np.uint8).tobytes()
    outcomes = []
    for read in (lambda data: decoded(data)[0], decode):
        try:
            outcomes.append(np.asarray(read(bytes(file))).tobytes())
        except Exception as error:
            outcomes.append(f"{type(error).__name__} {error}".split("<")[0])
    assert outcomes[0] == outcomes[1]


VARIANTS = [Pixels(), Pixels("uint8"), Pixels("exact", "scaled"), Pixels("uint8", "scaled")]


@pytest.mark.parametrize("pixels", VARIANTS)
def test_a_view_is_a_function_of_seed_epoch_and_index_in_every_variant(
    shards: ShardImages, recipe: ViewRecipe, pixels: Pixels
) -> None:
    varied = ViewRecipe(**vars(recipe) | vars(pixels))
    indices = np.array([2, 0, 3, 1, 0], np.int64)
    together = view_batch(shards, varied, 7, indices).images
    for row in range(5):
        assert torch.equal(view_batch(shards, varied, 7, indices[row : row + 1]).images[0], together[row])
    schedule = Schedule(4, 2, 2, 0)
    here, there = (list(training_batches(shards, varied, schedule, first_step=0, workers=n)) for n in (0, 2))
    assert all(torch.equal(one.images, other.images) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize("pixels", VARIANTS[1:])
def test_a_variants_views_are_near_the_exact_ones_and_others(
    shards: ShardImages, recipe: ViewRecipe, pixels: Pixels
) -> None:
    indices = np.arange(4).repeat(8)
    exact, other = (
        view_batch(shards, ViewRecipe(**vars(recipe) | vars(way)), 0, indices).images for way in (Pixels(), pixels)
    )
    assert not torch.equal(exact, other)
    assert (exact - other).abs().mean() < 0.02
    shown = [
        next(iter(evaluation_batches(shards, ViewRecipe(**vars(recipe) | vars(chosen)), crop_share=1, batch_size=4)))
        for chosen in (Pixels(), pixels)
    ]
    assert not torch.equal(shown[0].images, shown[1].images)


def test_uint8_is_torchs_resampling_of_the_crop(shards: ShardImages) -> None:
    boxes = Boxes(*(np.array([side]) for side in (10, 21, 90, 77)), np.array([True]))
    cut = np.ascontiguousarray(np.asarray(decode(shards.encoded(0)))[10:100, 21:98])
    wanted = interpolate(torch.from_numpy(cut).permute(2, 0, 1)[None], size=(32, 32), mode="bicubic", antialias=True)
    assert torch.equal(shards.crops(np.array([0]), boxes, 32, Pixels("uint8")), wanted.flip(-1) / 255)
    stored = ArrayImages(np.asarray(decode(shards.encoded(0)))[None], np.zeros(1, np.int64), ["a"])
    assert torch.equal(stored.crops(np.array([0]), boxes, 32, Pixels("uint8")), wanted.flip(-1) / 255)


def test_arrays_of_small_images_have_one_way(recipe: ViewRecipe) -> None:
    small = ArrayImages(picture(24, 24)[None], np.zeros(1, np.int64), ["a"])
    views = [
        view_batch(small, ViewRecipe(**vars(recipe) | vars(pixels)), 0, np.zeros(1, np.int64)) for pixels in VARIANTS
    ]
    assert all(torch.equal(views[0].images, view.images) for view in views)


def test_a_jpeg_shrinks_as_far_as_the_crop_keeps_the_views_pixels() -> None:
    scaled = Pixels("exact", "scaled")
    sides = [(223, 900), (447, 448), (448, 448), (895, 5000), (896, 5000), (1792, 1792), (9000, 9000)]
    assert [scaled.shrink(height, width, 224) for height, width in sides] == [1, 1, 2, 2, 4, 8, 8]
    assert Pixels("uint8").shrink(9000, 9000, 224) == 1


def test_a_box_in_a_shrunk_picture_stays_in_it_and_keeps_the_views_pixels(recipe: ViewRecipe) -> None:
    sides = np.random.default_rng(0).integers(140, 700, (2, 2000))
    boxes = recipe.boxes(0, np.arange(2000), *sides)
    for row, (height, width) in enumerate(sides.T):
        shrunk = Pixels(decoding="scaled").shrink(boxes.height[row], boxes.width[row], 16)
        for place, side in zip(boxes.place(row, shrunk), (height, width), strict=True):
            assert place.start in range(place.stop - 15)
            assert place.stop <= -(-side // shrunk)


@pytest.mark.parametrize("sides", [(450, 600), (451, 605), (463, 599)])
def test_a_scaled_picture_shows_the_same_as_the_full_one(sides: tuple[int, int], tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train")
    writer.add(saved(picture(*sides, grain=0, cell=200), quality=90), *sides)
    writer.finish()
    images = ShardImages(tmp_path, "train", np.zeros(1, np.int64), ["a"])
    for top, left, height, width in [(0, 0, *sides), (37, 51, 301, 409), (sides[0] - 257, sides[1] - 263, 257, 263)]:
        boxes = Boxes(*(np.array([side]) for side in (top, left, height, width)), np.array([False]))
        full, scaled = (images.crops(np.array([0]), boxes, 32, Pixels(decoding=way)) for way in ("full", "scaled"))
        assert (full - scaled).abs().mean() < 0.01


def configured(**views: str) -> Config:
    return open_experiment(ROOT).config("", {f"views.{name}": way for name, way in views.items()})


def test_a_variant_has_a_digest_of_its_own_and_the_default_has_the_one_it_had() -> None:
    plain, written = configured().views, ViewRecipe.of(configured().views).describe()
    assert set(written) == {"seed", "image_size", "scale", "ratio", "flip_probability", "mean", "std"}
    assert set(plain.deciding()) == {*written, "evaluation_crop"}
    others = [configured(resampling="uint8"), configured(decoding="scaled")]
    others.append(configured(resampling="uint8", decoding="scaled"))
    every = [configured(), *others]
    assert len({config.digest("views") for config in every}) == 4
    assert len({digest_of(ViewRecipe.of(config.views).describe()) for config in every}) == 4
    assert [config.views.told() for config in every[::3]] == ["", ", pixels by resampling uint8 and decoding scaled"]


@pytest.mark.parametrize(
    ("name", "allowed"), [("resampling", "'exact' or 'uint8'"), ("decoding", "'full' or 'scaled'")]
)
def test_an_unknown_variant_is_refused_with_what_is_allowed(name: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"views\.{name}.*{allowed}") as refused:
        configured(**{name: "quick"})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("cache", [True, False])
def test_the_dry_run_says_by_which_pixels_the_teacher_answers(cache: bool) -> None:
    plan = Plan(images=None, test_images=None, classes=None, tflops=1.0)
    said = []
    for views in ({}, {"views.resampling": "uint8"}):
        config = open_experiment(ROOT).config("", {"targets.cache": cache, **views})
        said.append(targets(Item("targets"), config, plan).lines["cache"])
    assert said[1] == said[0].replace("of one image", "of one image, pixels by resampling uint8")

"""No image is shown as another: each kind is decoded as a viewer would, or named with its path and reason."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attndistill.data.decoding import BadImageError, Inspected, decode, inspect
from attndistill.data.shards import ShardImages
from attndistill.data.store import open_split

Prepare = Callable[..., dict[str, Any]]

MOST = 1_000_000
GREY16 = np.array([[0, 257 * 100], [65535, 257 * 200]], np.uint16)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sides(data: bytes) -> tuple[int, int]:
    found = inspect(data, MOST)
    return found.height, found.width


def noise(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode)


def frames(kind: str) -> bytes:
    return encoded(noise(), kind, save_all=True, append_images=[Image.new("RGB", (24, 16))])


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims many pixels."""

    return png(struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), zlib.compress(b"\0"))


def png(header: bytes, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    palette = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", b"\0") if header[9] == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


JPEG, PNG = encoded(noise(size=(64, 48)), "JPEG"), encoded(noise(), "PNG")
RAW_PNG = encoded(noise(), "PNG", compress_level=0)  # damage to a pixel then only shows in the checksum

BAD = {
    "a_first.jpg": (b"", "zero bytes"),
    "text.jpg": (b"<html>404</html>", "no image format is recognised"),
    "truncated.jpg": (JPEG[:-300], "cannot be decoded .*truncated"),
    "header_only.jpg": (JPEG[:200], "cannot be decoded|no image format"),
    "truncated.png": (PNG[:-60], "cannot be decoded"),
    "flipped.png": (flipped(RAW_PNG, len(RAW_PNG) // 2), "cannot be decoded"),
    "notes.txt": (JPEG, "the extension is none of .jpg"),
    "large.png": (bomb(2000, 1000), "2000 x 1000 pixels are more than the 1000000 allowed"),
    "bomb.png": (bomb(60000, 60000), "too many pixels"),
    "moving.gif": (frames("GIF"), "more than one frame"),
    "moving.png": (frames("PNG"), "more than one frame"),
    "moving.webp": (frames("WEBP"), "more than one frame"),
    "pages.tif": (frames("TIFF"), "more than one frame"),
    "float.tif": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "mode F"),
    "integer.tif": (encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), "mode I "),
    "postscript.jpg": (encoded(noise(), "EPS"), "no image format is recognised"),
    "line\nbreak.jpg": (JPEG, "control characters"),
}


@pytest.fixture
def bad_tree(tree: Path) -> Path:
    for name, (data, _) in BAD.items():
        (tree / "train" / "bee" / name).write_bytes(data)
    (tree / "train" / "bee" / "broken_link.jpg").symlink_to("nowhere")
    return tree


def test_every_kind_is_named_with_its_path_and_reason_in_one_error(bad_tree: Path, prepare_set: Prepare) -> None:
    with pytest.raises(ValueError, match="18 bad images") as caught:
        prepare_set("image_folder", {"root": str(bad_tree)}, max_pixels=MOST)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + len(BAD) + 1
    assert f"{bad_tree}/train/bee/line\\nbreak.jpg: the file name has control characters" in str(caught.value)
    assert f"{bad_tree}/train/bee/broken_link.jpg: cannot be read (a link that leads nowhere)" in str(caught.value)
    assert not (bad_tree.parent / "prepared").exists()


def test_skipping_leaves_out_exactly_the_bad_ones_and_lists_them(bad_tree: Path, prepare_set: Prepare) -> None:
    manifest = prepare_set("image_folder", {"root": str(bad_tree)}, max_pixels=MOST, on_bad_image="skip", workers=2)
    assert manifest["bad_images"]["count"] == len(BAD) + 1
    assert manifest["splits"]["train"]["per_class"] == {"ant": 6, "bee": 6}
    reasons = {entry["name"]: entry["reason"] for entry in manifest["bad_images"]["skipped"]}
    assert set(reasons) == {"bee/" + name.replace("\n", "\\n") for name in [*BAD, "broken_link.jpg"]}
    images = open_split(bad_tree.parent / "prepared", "train")
    assert isinstance(images, ShardImages)
    assert images.names == [f"{c}/{c}_{i}.{'png' if i % 2 else 'JPEG'}" for c in ("ant", "bee") for i in range(6)]
    assert images.labels.tolist() == [0] * 6 + [1] * 6
    for index, name in enumerate(images.names):
        assert images.encoded(index) == (bad_tree / "train" / name).read_bytes()


@pytest.mark.parametrize("name", BAD)
def test_each_kind_has_its_reason(name: str, bad_tree: Path, prepare_set: Prepare) -> None:
    for other in (bad_tree / "train" / "bee").iterdir():
        if other.name in {*BAD, "broken_link.jpg"} - {name}:
            other.unlink()
    with pytest.raises(ValueError, match=f"1 bad images.*\n.*: .*({BAD[name][1]})"):
        prepare_set("image_folder", {"root": str(bad_tree)}, max_pixels=MOST)


def test_a_long_list_of_bad_images_is_cut_and_counted(tree: Path, prepare_set: Prepare) -> None:
    for number in range(25):
        (tree / "train" / "bee" / f"empty_{number}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="25 bad images") as caught:
        prepare_set("image_folder", {"root": str(tree)})
    assert str(caught.value).count("zero bytes") == 20
    assert str(caught.value).endswith("and 5 more")


def test_a_file_too_long_for_its_pixels_is_not_even_read(tree: Path, prepare_set: Prepare) -> None:
    with (tree / "train" / "bee" / "sparse.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"sparse\.jpg: 1099511627776 bytes are too many"):
        prepare_set("image_folder", {"root": str(tree)}, max_pixels=MOST)


def test_an_image_of_exactly_the_most_pixels_is_allowed() -> None:
    assert inspect(PNG, 24 * 16) == Inspected(16, 24, "PNG")
    with pytest.raises(BadImageError, match="24 x 16 pixels are more than the 383 allowed"):
        inspect(PNG, 24 * 16 - 1)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(150))
def test_damaged_bytes_give_a_picture_of_that_size_or_a_reason_but_never_a_crash(seed: int) -> None:
    generator = np.random.default_rng(seed)
    kind = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")[seed % 6]
    data = bytearray(encoded(noise(), kind))
    for position in generator.integers(0, len(data), 1 + seed % 5):
        data[position] = generator.integers(256)
    try:
        height, width = sides(bytes(data))
    except BadImageError:
        return
    assert decode(bytes(data)).size == (width, height)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "own tables": {"optimize": True},
    "full colour": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 1},
    "progressive, restart markers": {"progressive": True, "restart_marker_rows": 1},
}


def smooth(mode: str = "RGB") -> Image.Image:
    """A picture as photographs are: mostly smooth, some noise."""
    return Image.blend(noise(size=(8, 6)).resize((200, 150)), noise(size=(200, 150)), 0.1).convert(mode)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9])
def test_a_jpeg_that_was_cut_and_closed_again_is_refused_and_the_whole_one_is_not(
    kind: str, mode: str, kept: float
) -> None:
    whole = encoded(smooth(mode), "JPEG", quality=90, **KINDS[kind])
    assert sides(whole) == (150, 200)
    start = whole.index(b"\xff\xda")
    cut = whole[: start + int((len(whole) - start) * kept)].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(BadImageError, match=r"the data end before the picture does|cannot be decoded"):
        inspect(cut, MOST)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_cut_jpeg_is_refused_whichever_way_its_camera_was_held_and_a_grey_one_is_not(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    cut = encoded(smooth(), "JPEG", quality=90, exif=exif)[:-2500].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(BadImageError, match="the data end before the picture does"):
        inspect(cut, MOST)
    for colour in ("grey", (128, 128, 128)):
        inspect(encoded(Image.new("RGB", (200, 150), colour), "JPEG", exif=exif), MOST)


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(200, 150), (193, 145), (17, 33), (64, 64)])
def test_the_last_block_tells_whatever_the_size_and_the_sampling_of_colour(
    size: tuple[int, int], sampling: int
) -> None:
    whole = encoded(noise(size=size), "JPEG", quality=90, subsampling=sampling)
    inspect(whole, MOST)
    start = whole.index(b"\xff\xda") + 14
    for kept in np.linspace(0.05, 0.7, 14):
        cut = whole[: start + int((len(whole) - start) * kept)].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(BadImageError, match="the data end before the picture does"):
            inspect(cut, MOST)


def test_a_jpeg_with_a_stretch_of_other_bytes_is_refused_where_its_data_then_run_out() -> None:
    refused = 0
    for seed in range(20):
        data = bytearray(encoded(smooth(), "JPEG", quality=90))
        middle = len(data) // 2
        data[middle : middle + 500] = np.random.default_rng(seed).bytes(500)
        try:
            inspect(bytes(data), MOST)
        except BadImageError:
            refused += 1
    assert refused >= 15


@pytest.mark.parametrize("fill", [b"\xff", b"\xff\xff\xff", b"\0\0"])
def test_fill_bytes_before_a_marker_are_no_damage(fill: bytes) -> None:
    for options in KINDS.values():
        data = encoded(smooth(), "JPEG", quality=90, **options)
        assert sides(data[:-2] + fill + data[-2:]) == (150, 200)
        restarts = data.replace(b"\xff\xd0", fill[:1] * 2 + b"\xff\xd0") if fill[0] == 255 else data
        assert sides(restarts) == (150, 200)


def upright(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(), "JPEG", quality=100, subsampling=0, exif=exif)


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    6: lambda a: np.rot90(a, -1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_a_camera_that_was_held_otherwise_gives_the_upright_picture(orientation: int) -> None:
    stored = np.asarray(Image.open(BytesIO(upright(1))))
    wanted = TURNED[orientation](stored)
    np.testing.assert_array_equal(np.asarray(decode(upright(orientation))), wanted)
    assert sides(upright(orientation)) == wanted.shape[:2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_sides_are_those_of_the_upright_picture_in_every_format(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(), kind, exif=exif)
    assert sides(data) == ((16, 24) if orientation < 5 else (24, 16)) == decode(data).size[::-1]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    shown = np.asarray(decode(encoded(Image.fromarray(GREY16), kind)))
    assert shown[:, :, 0].tolist() == [[0, 100], [255, 200]]
    assert (shown == shown[:, :, :1]).all()


def test_transparent_pixels_are_white_paper_and_half_transparent_ones_a_mixture() -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    shown = np.asarray(decode(encoded(Image.fromarray(pixels), "PNG")))
    assert shown[0].tolist() == [[200, 0, 0], [255, 255, 255], [204, 204, 204]]
    grey = np.array([[[90, 255], [90, 0]]], np.uint8)
    assert np.asarray(decode(encoded(Image.fromarray(grey, "LA"), "PNG")))[0].tolist() == [[90] * 3, [255] * 3]


def test_a_palette_gives_its_colours_and_its_transparent_entry_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    plain = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    for kind in ("PNG", "GIF"):
        assert np.asarray(decode(encoded(image, kind)))[0].tolist() == plain
        shown = np.asarray(decode(encoded(image, kind, transparency=1)))[0].tolist()
        assert shown == [plain[0], [255, 255, 255], plain[2]]


def test_cmyk_is_shown_as_colours_and_not_as_its_inks() -> None:
    inks = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # pure cyan
    for kind in ("JPEG", "TIFF"):
        shown = np.asarray(decode(encoded(inks, kind))).reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(shown, [0, 255, 255], atol=3)


def test_black_and_white_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert np.asarray(decode(encoded(image, "PNG")))[0].tolist() == [[0] * 3, [255] * 3]


def test_a_cameras_jpeg_with_pictures_appended_is_its_first_picture() -> None:
    data = encoded(Image.new("RGB", (24, 16), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (24, 16))])
    assert Image.open(BytesIO(data)).format == "MPO"
    assert sides(data) == (16, 24)
    np.testing.assert_allclose(np.asarray(decode(data)).reshape(-1, 3).mean(axis=0), [255, 0, 0], atol=3)


def test_the_content_decides_and_the_manifest_names_what_the_extension_hides(tree: Path, prepare_set: Prepare) -> None:
    (tree / "train" / "bee" / "n02105855_2933.JPEG").write_bytes(PNG)
    (tree / "train" / "ant" / "inks.jpg").write_bytes(encoded(noise("CMYK"), "JPEG"))
    (tree / "val" / "ant" / "web.png").write_bytes(encoded(noise(), "WEBP"))
    manifest = prepare_set("image_folder", {"root": str(tree)})
    assert manifest["other_formats"] == [
        {"split": "train", "name": "bee/n02105855_2933.JPEG", "format": "PNG"},
        {"split": "test", "name": "ant/web.png", "format": "WEBP"},
    ]
    images = open_split(tree.parent / "prepared", "train")
    assert isinstance(images, ShardImages)
    assert images.encoded(list(images.names).index("bee/n02105855_2933.JPEG")) == PNG


def parts(count: int) -> dict[str, bytes]:
    """Files whose readers would go through `count` parts, one after another."""
    header, rest = PNG[:33], PNG[33:]
    empty = b"\0\0\0\0abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    intervals = encoded(noise(), "JPEG", restart_marker_blocks=1)
    return {
        "chunks": header + empty * count + rest,
        "markers before the picture": JPEG[:2] + b"\xff\xd0" * count + JPEG[2:],
        "fill bytes": JPEG[:2] + b"\xff" * count + JPEG[2:],
        "comments": JPEG[:2] + b"\xff\xfe\0\2" * count + JPEG[2:],
        "restart markers": intervals[:-2] + b"\xff\xd0\x01" * count + intervals[-2:],
        "scans": JPEG[:-2] + JPEG[JPEG.index(b"\xff\xda") : -2] * 500 + JPEG[-2:],
    }


@pytest.mark.parametrize("kind", parts(1))
def test_a_picture_in_millions_of_parts_is_refused_at_once(kind: str) -> None:
    data, began = parts(2_000_000)[kind], process_time()
    with pytest.raises(BadImageError, match=r"more parts than a picture|are more than its 6 blocks|or scans than a"):
        inspect(data, 10**7)
    assert process_time() - began < 2


BLANK_AND_LARGE = """
import sys, resource
from attndistill.data.decoding import decode, inspect
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
inspect(data, 40_000_000)
decode(data)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 // 36_000_000)
"""


@pytest.mark.parametrize(("colour", "depth", "bits"), [(3, 8, 8), (0, 16, 16), (6, 8, 32), (4, 16, 32)])
def test_a_picture_of_any_mode_takes_the_memory_of_its_pixels_and_no_multiple(
    tmp_path: Path, colour: int, depth: int, bits: int
) -> None:
    side = 6000
    rows = zlib.compress(bytes(1 + side * bits // 8) * side)
    (tmp_path / "large.png").write_bytes(png(struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0), rows))
    command = [sys.executable, "-c", BLANK_AND_LARGE, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 10  # bytes a pixel: the decoded one's and the RGB one's

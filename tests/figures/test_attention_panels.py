"""Attention panels: each map where it belongs, at its own scale, in equal bytes."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from PIL import Image

from attndistill.figures import fonts
from attndistill.figures.attention import AttentionMaps, attention_panel, png_bytes

TILE, STEP, LEFT, TOP = 112, 118, 12, 54  # tile and gap; the corner of the image
BRIGHTEST, DARKEST = (252, 254, 164), (0, 0, 3)  # inferno's ends


def one_hot(grid: int, row: int, column: int, height: float = 1.0) -> np.ndarray:
    values = np.zeros((grid, grid), np.float32)
    values[row, column] = height
    return values


def model(name: str, *heads: np.ndarray, kl: float | None = None) -> AttentionMaps:
    return AttentionMaps(name, np.mean(heads, axis=0), np.stack(heads), kl)


@pytest.fixture
def image():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 200
    return picture


@pytest.fixture
def teacher():
    return model("Teacher", one_hot(8, 0, 0), one_hot(8, 7, 7))


def pixel(panel, line, column, grid, row_in_map, column_in_map):
    """The colour at the middle of one patch of one map; column 1 is AGGR."""
    side = TILE // grid
    y = TOP + line * STEP + row_in_map * side + side // 2
    x = LEFT + column * STEP + column_in_map * side + side // 2
    return tuple(panel[y, x])


def test_the_brightest_patch_is_where_the_attention_is(image, teacher):
    student = model("Student", one_hot(4, 1, 2), one_hot(4, 3, 0), kl=0.5)
    panel = attention_panel(image, teacher, [student])
    assert pixel(panel, 0, 2, 8, 0, 0) == BRIGHTEST
    assert pixel(panel, 0, 2, 8, 7, 7) == DARKEST
    assert pixel(panel, 0, 3, 8, 7, 7) == BRIGHTEST
    assert pixel(panel, 1, 2, 4, 1, 2) == BRIGHTEST
    assert pixel(panel, 1, 3, 4, 3, 0) == BRIGHTEST
    assert pixel(panel, 1, 1, 4, 1, 2) == pixel(panel, 1, 1, 4, 3, 0) == BRIGHTEST  # both heads in AGGR


def test_the_image_comes_first_in_its_own_colours(image, teacher):
    panel = attention_panel(image, teacher)
    assert tuple(panel[TOP + 56, LEFT + 10]) == (0, 0, 0)
    assert tuple(panel[TOP + 56, LEFT + 100]) == (200, 200, 200)


def test_each_map_is_divided_by_its_own_maximum(image):
    strong = model("Teacher", one_hot(4, 2, 2, 0.9), one_hot(4, 2, 2, 0.001))
    panel = attention_panel(image, strong)
    assert pixel(panel, 0, 2, 4, 2, 2) == pixel(panel, 0, 3, 4, 2, 2) == BRIGHTEST


def test_a_map_without_attention_stays_dark(image):
    panel = attention_panel(image, model("Teacher", np.zeros((4, 4), np.float32)))
    assert pixel(panel, 0, 1, 4, 0, 0) == DARKEST


def test_the_panel_is_as_wide_as_the_model_with_most_heads(image, teacher):
    six = model("Six heads", *[one_hot(4, 0, 0)] * 6, kl=0.1)
    one = model("One head", one_hot(4, 0, 0), kl=0.1)
    panel = attention_panel(image, teacher, [six, one])
    assert panel.shape == (TOP + 3 * STEP - 6 + LEFT, 2 * LEFT + 8 * STEP - 6, 3)
    assert (panel[TOP + 2 * STEP : TOP + 3 * STEP - 6, LEFT + 3 * STEP :] == 255).all()  # nothing beside a single head


def test_the_kl_is_printed_beside_the_student_and_only_where_measured(image, teacher):
    def label(kl):
        panel = attention_panel(image, teacher, [model("Student", one_hot(4, 0, 0), kl=kl)])
        return panel[TOP + STEP :, : LEFT + TILE]

    lines = [np.flatnonzero(np.diff((label(kl) < 128).any(axis=(1, 2)).astype(int)) == 1) for kl in (None, 0.123)]
    assert len(lines[1]) == len(lines[0]) + 1
    assert not np.array_equal(label(0.123), label(0.456))


def test_long_names_stay_inside_their_column(image, teacher):
    name = "an unreasonably-long-method-name-without-any-break of many, many, many words"
    maps = np.ones((4, 4), np.float32)
    panel = attention_panel(image, teacher, [model(name, maps, kl=0.1)])
    gap = panel[TOP + STEP :, LEFT + TILE : LEFT + STEP]
    assert (gap == 255).all()


def test_equal_maps_give_equal_bytes_without_a_software_tag(image, teacher):
    student = model("Student", one_hot(4, 1, 2), kl=0.5)
    first, second = (png_bytes(attention_panel(image, teacher, [student], caption="x")) for _ in range(2))
    assert first == second
    chunks = [name for name in (b"tEXt", b"iTXt", b"tIME", b"pHYs") if name in first]
    assert chunks == []


def test_png_bytes_decode_to_the_panel(image, teacher):
    from io import BytesIO

    panel = attention_panel(image, teacher)
    assert np.array_equal(np.asarray(Image.open(BytesIO(png_bytes(panel)))), panel)


def test_bicubic_maps_are_smooth_where_nearest_ones_have_edges(image, teacher):
    smooth = attention_panel(image, teacher, interpolation="bicubic")
    sharp = attention_panel(image, teacher)
    tile = np.s_[TOP : TOP + TILE, LEFT + 2 * STEP : LEFT + 2 * STEP + TILE]
    assert len(np.unique(sharp[tile].reshape(-1, 3), axis=0)) == 2
    assert len(np.unique(smooth[tile].reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("values", [np.full((4, 4), np.nan), np.full((4, 4), -0.1)])
def test_maps_that_are_no_attention_are_refused(values):
    with pytest.raises(ValueError, match="'Student' hold entries that are negative or not finite"):
        AttentionMaps("Student", values, values[None])


def test_heads_of_another_grid_than_the_aggregated_map_are_refused():
    with pytest.raises(ValueError, match=r"aggregated \(4, 4\) and heads \(3, 8, 8\)"):
        AttentionMaps("Student", np.ones((4, 4)), np.ones((3, 8, 8)))


def test_a_normalised_image_is_refused(teacher):
    with pytest.raises(ValueError, match="float64 given"):
        attention_panel(np.zeros((32, 32, 3)), teacher)


@pytest.fixture
def without_east_asian_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "east_asian", lambda: None)


@pytest.mark.usefixtures("without_east_asian_fonts")
def test_letters_that_no_font_has_are_escapes_and_no_boxes(image, teacher):
    def panel(name, caption):
        student = model(name, one_hot(4, 0, 0))
        return attention_panel(image, model("T", one_hot(4, 0, 0)), [student], caption=caption)

    assert np.array_equal(panel("猫", "犬"), panel(r"\u732b", r"\u72ac"))
    assert not np.array_equal(panel("Größe", "λ"), panel(r"Gr\xf6\xdfe", r"\u03bb"))


@pytest.mark.usefixtures("without_east_asian_fonts")
@pytest.mark.parametrize("bold", [False, True])
def test_every_line_is_one_that_its_font_can_draw(bold):
    for text in ("猫 Größe", "a\x1b[31m", "\u202egpj", "👩\u200d🔬", "caf\udce9", "x" * 5_000_000):
        line, path = fonts.lettered(text, bold=bold)
        assert set(map(ord, line)) <= set(FT2Font(str(path)).get_charmap())
        assert len(line) < 500


def test_a_font_that_has_all_letters_of_a_line_is_taken(monkeypatch, tmp_path):
    serif = next(font for font in fontManager.ttflist if font.name == "STIXGeneral")
    monkeypatch.setattr(fonts, "east_asian", lambda: serif)
    more = set(FT2Font(serif.fname).get_charmap()) - set(FT2Font(str(fonts._dejavu(False))).get_charmap())
    only_there = next(letter for letter in map(chr, sorted(more)) if letter.isprintable())
    assert fonts.lettered("plain")[1].name == "DejaVuSans.ttf"
    assert fonts.lettered(f"a {only_there}") == (f"a {only_there}", Path(serif.fname))

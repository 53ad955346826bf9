"""Charts: equal bytes, honest axes, distinct colours. Pixels are looked at where the picture decides something."""

from io import BytesIO

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageColor

from attndistill.figures import fonts
from attndistill.figures.charts import accuracy_bars, loss_curves, palette, probe_curve

LABELS = ["Teacher", "Student"]
EPOCHS = np.arange(5.0)
CLOSE = {"k-NN": [np.array([90.0]), np.array([88.0, 89.0])]}
WIDE = {"k-NN": [np.array([90.0]), np.array([30.0, 31.0])]}


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB"))


def area(picture: bytes, colour: str) -> int:
    return int((pixels(picture) == ImageColor.getrgb(colour)).all(axis=-1).sum())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: accuracy_bars(LABELS, CLOSE, teacher="Teacher"),
        lambda: probe_curve({"Teacher": (EPOCHS, np.ones((2, 5)))}, ylabel="top-1 (%)", teacher="Teacher"),
        lambda: loss_curves({"Student": {"loss": (EPOCHS, np.ones((2, 5)))}}),
    ],
    ids=["accuracy", "probe", "loss"],
)
def test_equal_input_gives_equal_bytes_whatever_the_users_style(draw):
    first = draw()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "pink", "savefig.dpi": 10}):
        assert draw() == first
    assert b"Software" not in first
    assert b"tIME" not in first


def test_colours_of_six_models_and_their_teacher_are_distinct():
    labels = ["Teacher", *"abcdef"]
    assert len(set(palette(labels, teacher="Teacher").values())) == 7


def test_wide_accuracies_are_bars_and_close_ones_are_dots():
    student = palette(LABELS, teacher="Teacher")["Student"]
    assert area(accuracy_bars(LABELS, WIDE, teacher="Teacher"), student) > 10_000
    assert 0 < area(accuracy_bars(LABELS, CLOSE, teacher="Teacher"), student) < 2_000


def test_a_bar_is_as_long_as_its_accuracy():
    labels = ["a", "b"]
    picture = accuracy_bars(labels, {"k-NN": [np.array([80.0]), np.array([20.0])]})
    colours = palette(labels)
    assert area(picture, colours["a"]) / area(picture, colours["b"]) == pytest.approx(4, rel=0.03)


def test_a_model_nobody_measured_has_a_line_and_no_mark():
    measured = {"k-NN": [np.array([90.0]), np.array([])]}
    picture = accuracy_bars(LABELS, measured, teacher="Teacher")
    assert area(picture, palette(LABELS, teacher="Teacher")["Student"]) == 0


def test_a_probe_for_another_number_of_models_is_refused():
    with pytest.raises(ValueError, match="k-NN: 1 models given, 2"):
        accuracy_bars(LABELS, {"k-NN": [np.array([1.0])]})


def test_a_seed_without_a_figure_leaves_the_others_mean():
    values = np.array([[50.0, 60.0, 70.0, 80.0, 90.0], [50.0, np.nan, 70.0, 80.0, 90.0]])
    whole = probe_curve({"a": (EPOCHS, values[:1].repeat(2, axis=0))}, ylabel="top-1 (%)")
    assert probe_curve({"a": (EPOCHS, values)}, ylabel="top-1 (%)") == whole


def test_a_spread_is_drawn_as_a_band():
    same = np.full((2, 5), 50.0)
    spread = same + np.array([[5.0], [-5.0]])
    limits = np.full((1, 5), 50.0) + np.array([10.0, 0, 0, 0, -10.0])
    narrow, wide = (probe_curve({"a": (EPOCHS, v), "b": (EPOCHS, limits)}, ylabel="top-1 (%)") for v in (same, spread))
    inked = [int((pixels(picture) != 255).any(axis=-1).sum()) for picture in (narrow, wide)]
    assert inked[1] > inked[0] * 1.5


@pytest.mark.filterwarnings("error")
def test_labels_are_texts_and_no_formulas_escape_sequences_or_boxes(monkeypatch):
    monkeypatch.setattr(fonts, "east_asian", lambda: None)

    def drawn(label, title="k-NN\nknn/dino-v1"):
        return accuracy_bars(["Teacher", label], {title: CLOSE["k-NN"]}, teacher="Teacher")

    assert drawn("猫\x1b[31m") == drawn(r"\u732b\x1b[31m")
    assert drawn("$x$") != drawn("x")
    assert drawn("$\\frac{$") != drawn("$\\frac")  # no formula, so none that is broken
    assert drawn("a", "$x^2$\np") != drawn("a", "x^2\np")
    assert drawn("x" * 5_000_000)

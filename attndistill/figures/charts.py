"""Accuracies (supplementary Fig 6) and curves (Fig 7) as PNG bytes.

Figure objects on the Agg canvas with Matplotlib's own defaults: no pyplot state, no user's matplotlibrc, no tag of
software or time, so equal input gives equal bytes.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from attndistill.figures.fonts import dress_texts, families

# M models, R seeds, E epochs, T places on the horizontal axis

Curve = tuple[Float[np.ndarray, " T"], Float[np.ndarray, "R T"]]

_INK = _TEACHER = "#1f2328"
_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito (2008)
_MUTED, _FAINT = "#606770", "#d5d9de"
_DPI = 200
_BARS_FROM = 0.3  # bars from zero once the values span this share of the largest; dots on a cut axis below
_MOST_POINTS = 160
_BESIDE = (10, 74)  # columns of figures right of an axis, in points
_LETTERS = 64  # of a line below an axis


def palette(labels: Sequence[str], *, teacher: str | None = None) -> dict[str, str]:
    """A colour for each label that a colour-blind reader can tell apart; the teacher's is nearly black."""
    others = [label for label in labels if label != teacher]
    colours = {label: _OKABE_ITO[index % len(_OKABE_ITO)] for index, label in enumerate(others)}
    return colours if teacher is None else {teacher: _TEACHER, **colours}


def accuracy_bars(
    labels: Sequence[str],
    accuracies: Mapping[str, Sequence[Float[np.ndarray, " R"]]],
    *,
    teacher: str | None = None,
) -> bytes:
    """Fig 6: every model's accuracy, one panel per probe, mean ± sd with the gap to the teacher.

    Bars start at zero. Where all accuracies lie within 30 % of the largest, bars would hide the differences: then the
    seeds are dots, mean and sd an interval, and the axis says where it starts.

    Args:
        labels: the M models, first at the top.
        accuracies: probe's title, a second line of which names the protocol -> per model the percentages of its
            seeds; an empty array where nobody measured.
        teacher: the label that gaps are taken to.

    Raises:
        ValueError: a probe with another number of models than labels, or no value at all.
    """
    colours = palette(labels, teacher=teacher)
    with canvas(6.4, 0.2 + len(accuracies) * (0.95 + 0.36 * len(labels))) as (figure, rendered):
        axes = figure.subplots(len(accuracies), 1, squeeze=False)[:, 0]
        for axis, (title, values) in zip(axes, accuracies.items(), strict=True):
            if len(values) != len(labels) or not any(len(entry) for entry in values):
                raise ValueError(f"{title}: {len(values)} models given, {len(labels)} with one value or more allowed")
            _accuracy_axis(axis, title, labels, values, colours, teacher)
    return rendered()


def probe_curve(curves: Mapping[str, Curve], *, ylabel: str, teacher: str | None = None) -> bytes:
    """Fig 7: accuracy against epochs of pre-training; a band of ± sd where there are two seeds or more.

    Args:
        curves: model's label -> (epochs (E,), accuracies (R, E) in percent; NaN where a seed has no figure).
        ylabel: what was measured, with its unit.
        teacher: the label drawn as the teacher.
    """
    colours = palette(list(curves), teacher=teacher if teacher in curves else None)
    with canvas(6.4, 3.4) as (figure, rendered):
        axis = figure.subplots()
        for label, (epochs, values) in curves.items():
            line(axis, epochs, values, colours[label], f"{label} (n = {len(values)})", marker="o")
        axis.set_xlabel("epoch")
        axis.set_ylabel(ylabel)
        legend(axis, loc="lower right")
        plain(axis, grid="y")
    return rendered()


def loss_curves(panels: Mapping[str, Mapping[str, Curve]], *, xlabel: str = "epoch") -> bytes:
    """Training losses, one panel per model because their losses are different quantities; ± sd over seeds.

    Curves of more than 160 points are averaged within 160 stretches of equal length. The scale is logarithmic where all
    terms are positive.

    Args:
        panels: model's label -> term's name -> (places (T,), values (R, T); NaN where a seed has none).
        xlabel: what the horizontal axis counts.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with canvas(6.4, 0.35 + 2.2 * rows) as (figure, rendered):
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, (label, terms) in zip(axes.flat, panels.items(), strict=False):
            colours = palette(list(terms), teacher="loss" if "loss" in terms else None)
            for term, curve in terms.items():
                line(axis, *_binned(*curve), colours[term], term)
            if all((values > 0).all() for _, values in terms.values()):
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter(NullFormatter())
            seeds = max(len(values) for _, values in terms.values())
            axis.set_title(f"{label} (n = {seeds})", loc="left", fontsize=9, fontweight="bold")
            axis.set_xlabel(xlabel)
            axis.set_ylabel("loss (as trained)")
            legend(axis, fontsize=8)
            plain(axis, grid="y")
    return rendered()


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Callable[[], bytes]]]:
    """A figure in Matplotlib's own style, and what turns it into PNG bytes once it is drawn."""
    buffer = BytesIO()
    own = {"font.size": 9.0, "axes.unicode_minus": True, "font.family": families()}
    with matplotlib.style.context(["default", own]):
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, buffer.getvalue
        dress_texts(figure)
        figure.savefig(buffer, format="png", metadata={"Software": None})


def _accuracy_axis(
    axis: Axes,
    title: str,
    labels: Sequence[str],
    values: Sequence[Float[np.ndarray, " R"]],
    colours: Mapping[str, str],
    teacher: str | None,
) -> None:
    pooled = np.concatenate(values)
    bars = np.ptp(pooled) >= _BARS_FROM * pooled.max()
    means = {label: float(np.mean(entry)) for label, entry in zip(labels, values, strict=True) if len(entry)}
    target = means.get(teacher) if teacher else None
    if target is not None:
        axis.axvline(target, color=_TEACHER, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for place, (label, entry) in enumerate(zip(labels, values, strict=True)):
        if len(entry):
            _mark(axis, place, entry, colours[label], bar=bool(bars), target=target)
            _beside(axis, place, *_reading(entry, None if label == teacher else target))
    _beside(axis, -0.72, "mean ± sd", "" if target is None else "gap to teacher", colour=_MUTED)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.45, -0.55)
    start = 0.0
    axis.set_xlim(left=0)
    if not bars:
        pad = max(0.25, 0.08 * float(np.ptp(pooled)))
        start = float(np.floor(2 * (pooled.min() - pad)) / 2)
        axis.set_xlim(start, float(np.ceil(2 * (pooled.max() + pad)) / 2))
    name, _, protocol = title.partition("\n")
    axis.set_title(name, loc="left", fontsize=9, fontweight="bold", pad=14)  # above the columns' headings
    told = " · ".join(filter(None, ["accuracy (%)", f"axis starts at {start:g}", protocol]))
    axis.set_xlabel(textwrap.fill(told, _LETTERS, break_on_hyphens=False), color=_MUTED)
    plain(axis, grid="x")
    axis.tick_params(axis="y", length=0)


def _mark(
    axis: Axes, place: int, entry: Float[np.ndarray, " R"], colour: str, *, bar: bool, target: float | None
) -> None:
    """A bar from zero or an interval with its seeds, and a thin line across the gap to the teacher."""
    mean = float(entry.mean())
    spread = float(entry.std(ddof=1)) if len(entry) > 1 else None
    if target is not None:
        axis.plot([mean, target], [place, place], color=colour, linewidth=1.0, alpha=0.45, zorder=2)
    if bar:
        axis.barh(place, mean, height=0.56, color=colour, zorder=3)
        if spread is not None:
            axis.errorbar(mean, place, xerr=spread, color=_TEACHER, elinewidth=1.2, capsize=3, zorder=4)
        return
    if spread is not None:
        axis.plot([mean - spread, mean + spread], [place, place], color=colour, linewidth=5, alpha=0.35, zorder=3,
                  solid_capstyle="butt")  # fmt: skip
        axis.scatter(entry, np.full(len(entry), place + 0.27), s=9, color=colour, alpha=0.75, linewidths=0, zorder=4)
    axis.scatter([mean], [place], s=46, color=colour, marker="D", linewidths=0, zorder=5)


def _beside(axis: Axes, place: float, *columns: str, colour: str = _INK) -> None:
    """Texts to the right of the axis, in columns."""
    for index, text in enumerate(columns):
        axis.annotate(
            text,
            xy=(1, place),
            xycoords=axis.get_yaxis_transform(),
            xytext=(_BESIDE[index], 0),
            textcoords="offset points",
            va="center",
            fontsize=9 if index == 0 else 8,
            color=colour if index == 0 else _MUTED,
        )


def _reading(entry: Float[np.ndarray, " R"], target: float | None) -> tuple[str, str]:
    spread = f" ± {entry.std(ddof=1):.1f}" if len(entry) > 1 else ""
    gap = "" if target is None else f"{entry.mean() - target:+.1f}".replace("-", "−")
    return f"{entry.mean():.1f}{spread}", gap


def line(
    axis: Axes,
    places: Float[np.ndarray, " T"],
    values: Float[np.ndarray, "R T"],
    colour: str,
    label: str,
    marker: str = "",
) -> None:
    """Mean over seeds, and a band of ± sd where there are two or more."""
    mean = np.nanmean(values, axis=0)
    axis.plot(places, mean, color=colour, linewidth=1.6, label=label, marker=marker, markersize=3.5)
    if len(values) > 1:
        seen = np.isfinite(values).sum(axis=0)
        squares = np.nansum((values - mean) ** 2, axis=0)
        spread = np.sqrt(squares / np.maximum(seen - 1, 1))
        axis.fill_between(places, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)


def legend(axis: Axes, **options: Any) -> None:
    """Every line's, also where its name begins with an underscore, which Matplotlib leaves out by itself."""
    lines = axis.get_lines()
    axis.legend(lines, [str(line.get_label()) for line in lines], edgecolor="none", framealpha=0.9, **options)


def _binned(steps: Float[np.ndarray, " T"], values: Float[np.ndarray, "R T"]) -> Curve:
    if len(steps) <= _MOST_POINTS:
        return steps, values
    stretches = np.array_split(np.arange(len(steps)), _MOST_POINTS)
    return (
        np.array([steps[stretch].mean() for stretch in stretches]),
        np.stack([values[:, stretch].mean(axis=1) for stretch in stretches], axis=1),
    )


def plain(axis: Axes, *, grid: str) -> None:
    """Two spines, and thin lines across the `grid` axis."""
    axis.spines[["top", "right", "left" if grid == "x" else "bottom"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_MUTED)
    axis.grid(axis="x" if grid == "x" else "y", color=_FAINT, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(color=_FAINT, labelcolor=_INK, which="both")

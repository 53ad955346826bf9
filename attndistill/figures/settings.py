"""Accuracy against one setting that a group of rows varies (supplementary Fig. 8: lambda, T), the paper's beside it.

Two panels, because the paper's accuracies and ours are of different data: compare shapes, not heights.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from attndistill.figures.charts import canvas, palette, plain

# V values of the setting, R seeds

_WIDE = 4  # highest over lowest from which the axis is logarithmic


def setting_curves(
    setting: str,
    values: Sequence[float],
    measured: Mapping[str, Sequence[Float[np.ndarray, " R"]]],
    paper: Sequence[float | None],
) -> bytes:
    """PNG: mean ± sd over seeds for each figure against the setting; right, the paper's top-1 where it can be read.

    Args:
        setting: dotted key, for the axis.
        values: V values, increasing.
        measured: figure's title -> for each value the percentages of its seeds; empty where nobody measured.
        paper: the paper's figure for each value.
    """
    legible = [(value, figure) for value, figure in zip(values, paper, strict=True) if figure is not None]
    with canvas(6.4, 2.9) as (figure, rendered):
        axes = figure.subplots(1, 2 if legible else 1, squeeze=False)[0]
        for (title, accuracies), colour in zip(measured.items(), palette(list(measured)).values(), strict=True):
            seen = [(value, entry) for value, entry in zip(values, accuracies, strict=True) if len(entry)]
            if seen:
                _curve(axes[0], title, seen, colour)
        axes[0].set_title("here: mean ± sd over seeds", loc="left", fontsize=9, fontweight="bold")
        axes[0].legend(edgecolor="none", framealpha=0.9, fontsize=8)
        if legible:
            axes[1].plot(*zip(*legible, strict=True), color="#1f2328", marker="o", markersize=3.5, linewidth=1.6)
            axes[1].set_title("the paper: linear probe", loc="left", fontsize=9, fontweight="bold")
        for axis in axes:
            _dress(axis, setting, values)
    return rendered()


def _curve(axis: Axes, title: str, seen: Sequence[tuple[float, Float[np.ndarray, " R"]]], colour: str) -> None:
    places = [value for value, _ in seen]
    means = [float(entry.mean()) for _, entry in seen]
    spreads = [float(entry.std(ddof=1)) if len(entry) > 1 else 0.0 for _, entry in seen]
    axis.errorbar(places, means, yerr=spreads, color=colour, marker="o", markersize=3.5, linewidth=1.6,
                  elinewidth=1.0, capsize=3, label=title)  # fmt: skip


def _dress(axis: Axes, setting: str, values: Sequence[float]) -> None:
    if values[0] > 0 and values[-1] >= _WIDE * values[0]:
        axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(list(values)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.tick_params(axis="x", labelsize=8, labelrotation=45)  # the paper's 0.3 and 0.5 are close on a log axis
    axis.set_xlabel(setting)
    axis.set_ylabel("top-1 (%)")
    plain(axis, grid="y")

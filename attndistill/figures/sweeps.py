"""Accuracy over epochs of fine-tuning, over swept learning rates and over a setting of rows: a panel an evaluation."""

from collections.abc import Mapping

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from attndistill.figures.charts import Curve, canvas, line, palette, plain

Panel = dict[str, Curve]  # model's label -> (places (T,), percentages (R, T); NaN where a seed has none)

_MOST_TICKS = 6  # places of a logarithmic axis that are named one by one


def curves_by_panel(
    panels: Mapping[str, Panel], *, xlabel: str, logarithmic: bool = False, teacher: str | None = None
) -> bytes:
    """PNG: a panel for each title, two in a row; mean, and a band of ± sd where there are two seeds or more.

    Args:
        panels: title -> curves.
        xlabel: what the horizontal axis counts.
        logarithmic: whether that axis is.
        teacher: the label drawn as the teacher.
    """
    labels = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    colours = palette(labels, teacher=teacher if teacher in labels else None)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    key: dict[str, Line2D] = {}
    with canvas(6.4, 0.35 + 2.5 * rows + 0.2 * -(-len(labels) // 2)) as (figure, rendered):
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
            for label, (places, values) in curves.items():
                name = f"{label} (n = {len(values)})"
                line(axis, places, values, colours[label], name, marker="o")
                key.setdefault(name, axis.get_lines()[-1])
            if logarithmic:
                axis.set_xscale("log")
                seen = sorted({float(place) for places, _ in curves.values() for place in places})
                if len(seen) <= _MOST_TICKS:
                    axis.xaxis.set_major_locator(FixedLocator(seen))
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.xaxis.set_minor_formatter(NullFormatter())
            else:
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            highest = max(float(np.nanmax(values)) for _, values in curves.values())
            axis.set_ylim(top=min(100.5, highest + 3))
            axis.set_title(title, loc="left", fontsize=8, fontweight="bold", wrap=True)
            axis.set_xlabel(xlabel)
            axis.set_ylabel("top-1 on test (%)")
            plain(axis, grid="y")
        figure.legend(list(key.values()), list(key), loc="outside lower center", ncols=2, fontsize=8, edgecolor="none")
    return rendered()

"""Accuracy over epochs of fine-tuning, over swept learning rates and over a setting of rows: a panel an evaluation."""

from collections.abc import Mapping

import numpy as np
from matplotlib.ticker import FuncFormatter

from attndistill.figures.charts import Curve, canvas, legend, line, palette, plain

Panel = dict[str, Curve]  # model's label -> (places (T,), percentages (R, T); NaN where a seed has none)


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
    with canvas(6.4, 0.35 + 2.5 * rows) as (figure, rendered):
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
            for label, (places, values) in curves.items():
                line(axis, places, values, colours[label], f"{label} (n = {len(values)})", marker="o")
            if logarithmic:
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            highest = max(float(np.nanmax(values)) for _, values in curves.values())
            axis.set_ylim(top=min(100.5, highest + 3))
            axis.set_title(title, loc="left", fontsize=8, fontweight="bold", wrap=True)
            axis.set_xlabel(xlabel)
            axis.set_ylabel("top-1 on test (%)")
            legend(axis, fontsize=7)
            plain(axis, grid="y")
    return rendered()

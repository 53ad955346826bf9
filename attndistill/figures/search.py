"""What a search found: a trial's curves, importances, slices, and the surface over two settings (Fig. 8).

Only finished trials are drawn. A surface between scattered points is interpolation: the points are drawn with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from attndistill.figures.charts import canvas, palette, plain

# N trials, P points of a curve

Points = tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]
_HIDDEN = ("learning_rate",)
_TWO_DECADES = 100
_INK, _MUTED = "#1f2328", "#606770"


@dataclass(frozen=True)
class Setting:
    """One searched setting: its values over the trials, and whether its axis is logarithmic.

    Text and booleans are drawn as evenly spaced categories; so are the choices of a setting without an order.
    """

    name: str
    values: Sequence[bool | int | float | str]
    log: bool
    categories: tuple[str, ...] | None = None

    @property
    def places(self) -> NDArray[np.float64]:
        """Where the trials lie on the setting's axis."""
        if self.categories is not None:
            return np.array([self.categories.index(str(value)) for value in self.values], dtype=np.float64)
        return np.array([float(value) for value in self.values])

    def dress(self, axis: Axes, which: str) -> None:
        """Scale, ticks and label of the x or y axis."""
        getattr(axis, f"set_{which}label")(self.name)
        if self.categories is not None:
            getattr(axis, f"set_{which}ticks")(range(len(self.categories)), self.categories)
            getattr(axis, f"set_{which}lim")(-0.5, len(self.categories) - 0.5)
        elif self.log:
            getattr(axis, f"set_{which}scale")("log")
            ticks = getattr(axis, f"{which}axis")
            places = self.places
            ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if places.max() < _TWO_DECADES * places.min() else (1,)))
            ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ticks.set_minor_formatter(NullFormatter())


def trial_curves(seeds: Mapping[str, Mapping[str, Points]]) -> bytes:
    """A trial's losses (left, logarithmic) and its figure on the validation part (right), a line per seed.

    Args:
        seeds: seed -> curve's name -> (epochs, values).
    """
    names = list(dict.fromkeys(name for terms in seeds.values() for name in terms if name not in _HIDDEN))
    judged = [name for name in names if name.startswith("validation_")]
    panels = [shown for shown in ([name for name in names if name not in judged], judged) if shown]
    colours = palette(names)
    with canvas(3.6 * len(panels), 2.6) as (figure, rendered):
        for axis, shown in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for terms in seeds.values():
                for name in (name for name in shown if name in terms):
                    axis.plot(*terms[name], color=colours[name], linewidth=1.3, marker=".", markersize=3, label=name)
            handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
            axis.legend(handles.values(), handles.keys(), edgecolor="none", fontsize=7)
            axis.set_xlabel("epoch")
            if shown is judged:
                axis.set_ylabel("top-1 (%)")
            else:
                axis.set_yscale("log")
            plain(axis, grid="y")
    return rendered()


def importance_bars(importances: Mapping[str, float], *, evaluator: str) -> bytes:
    """How much each setting matters, largest first; the title names the evaluator."""
    with canvas(6.4, 0.7 + 0.35 * len(importances)) as (figure, rendered):
        axis = figure.subplots()
        ranked = sorted(importances.items(), key=lambda item: item[1])
        axis.barh([name for name, _ in ranked], [value for _, value in ranked], color=palette(["bars"])["bars"])
        for place, (_, value) in enumerate(ranked):
            axis.annotate(f" {value:.2f}", (value, place), va="center", fontsize=8, color=_INK)
        axis.set_xlim(0, 1.1 * max(*importances.values(), 1e-9))
        axis.set_title(f"importance ({evaluator})", loc="left", fontsize=9)
        plain(axis, grid="x")
    return rendered()


def slices(settings: Sequence[Setting], values: Float[np.ndarray, " N"], *, objective: str, best: int) -> bytes:
    """The objective against each setting, a dot per trial; the best is a diamond."""
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    with canvas(2.5 * columns, 2.4 * rows) as (figure, rendered):
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axis in axes.flat[len(settings) :]:
            axis.set_axis_off()
        for axis, setting in zip(axes.flat, settings, strict=False):
            places = setting.places
            axis.scatter(places, values, s=14, color=palette(["dots"])["dots"], alpha=0.7, linewidths=0)
            axis.scatter(places[best], values[best], s=46, color="#D55E00", marker="D", linewidths=0)
            setting.dress(axis, "x")
            plain(axis, grid="y")
        for axis in axes[:, 0]:
            axis.set_ylabel(objective)
    return rendered()


def surface(across: Setting, along: Setting, values: Float[np.ndarray, " N"], *, objective: str, best: int) -> bytes:
    """Fig. 8: the objective over two settings, linear between the trials; other settings vary freely underneath.

    With fewer than four trials, or all on a line, the points stand alone.
    """
    x, y = across.places, along.places
    with canvas(5.0, 3.8) as (figure, rendered):
        axis = figure.subplots()
        across.dress(axis, "x")
        along.dress(axis, "y")
        drawn = None
        flat_x, flat_y = np.log(x) if across.log else x, np.log(y) if along.log else y
        if _spans(flat_x, flat_y):
            triangles = Triangulation(x, y, Triangulation(flat_x, flat_y).triangles)  # neighbours as they are seen
            drawn = axis.tricontourf(triangles, values, levels=12, cmap="viridis", alpha=0.85)
        dots = axis.scatter(x, y, c=values, s=22, cmap="viridis", edgecolors="white", linewidths=0.8)
        axis.scatter(x[best], y[best], s=90, facecolors="none", edgecolors="#D55E00", marker="D", linewidths=1.6)
        figure.colorbar(drawn or dots, ax=axis, label=objective)
        axis.tick_params(color=_MUTED)
    return rendered()


def _spans(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Whether the points span a plane, so that there are triangles to fill."""
    distinct = np.unique(np.stack([x, y], axis=1), axis=0)
    if len(distinct) < 4:
        return False
    return bool(np.linalg.matrix_rank(distinct - distinct.mean(axis=0), tol=1e-6) == 2)

"""What a search found: a trial's curves, importances, slices, a Pareto front, the surface over two settings (Fig. 8).

Only finished trials are drawn. A surface between scattered points is interpolation: the points are drawn with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from attndistill.figures.charts import canvas, palette, plain

# N trials, P points of a curve

Points = tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]
_HIDDEN = ("learning_rate",)
_TWO_DECADES = 100
_MARGIN = 0.06  # of an axis's length, around the points
_INK, _MUTED, _BEST = "#1f2328", "#606770", "#D55E00"


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

    @property
    def flat(self) -> NDArray[np.float64]:
        """The same as lengths on paper: the logarithms of a logarithmic axis."""
        return np.log10(self.places) if self.log and self.categories is None else self.places

    def dress_flat(self, axis: Axes, which: str) -> None:
        """Ticks, limits and label of an axis of lengths."""
        if self.categories is not None or not self.log:
            self.dress(axis, which)
        else:
            getattr(axis, f"set_{which}label")(self.name)
            low, high = self.places.min(), self.places.max()
            subs = np.array([1, 2, 5]) if high < _TWO_DECADES * low else np.array([1])
            decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
            ticks = np.sort(np.outer(decades, subs).ravel())
            getattr(axis, f"set_{which}ticks")(np.log10(ticks), [f"{tick:g}" for tick in ticks])
        if self.categories is None:
            low, high = self.flat.min(), self.flat.max()
            beside = _MARGIN * (high - low) or 0.5
            getattr(axis, f"set_{which}lim")(low - beside, high + beside)

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
    with canvas(2.6 * len(panels), 2.3) as (figure, rendered):  # the dashboard shows 1,000 pixels and cuts the rest
        for axis, shown in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for terms in seeds.values():
                for name in (name for name in shown if name in terms):
                    axis.plot(*terms[name], color=colours[name], linewidth=1.3, marker=".", markersize=3, label=name)
            handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
            axis.legend(handles.values(), handles.keys(), edgecolor="none", fontsize=7)
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            if shown is judged:
                axis.set_ylabel("top-1 (%)")
            else:
                axis.set_yscale("log")
            plain(axis, grid="y")
    return rendered()


def importance_bars(
    importances: Mapping[str, float], by_seed: Mapping[str, Sequence[float]], *, evaluator: str
) -> bytes:
    """How much each setting matters, largest first; circles: by each seed alone; the title names the evaluator."""
    with canvas(6.4, 0.7 + 0.35 * len(importances)) as (figure, rendered):
        axis = figure.subplots()
        ranked = sorted(importances.items(), key=lambda item: item[1])
        axis.barh([name for name, _ in ranked], [value for _, value in ranked], color=palette(["bars"])["bars"])
        ends = [max(value, *by_seed.get(name, ()), 1e-9) for name, value in ranked]
        for place, ((name, value), end) in enumerate(zip(ranked, ends, strict=True)):
            each = by_seed.get(name, ())
            axis.scatter(each, [place] * len(each), s=22, facecolors="white", edgecolors=_INK, linewidths=1.0, zorder=3)
            axis.annotate(f"{value:.2f}", (end, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_xlim(0, 1.1 * max(ends))
        axis.set_title(f"importance ({evaluator})", loc="left", fontsize=9)
        plain(axis, grid="x")
    return rendered()


def slices(
    settings: Sequence[Setting], values: Float[np.ndarray, " N"], *, objective: str, best: Sequence[int]
) -> bytes:
    """One objective against each setting, a dot per trial; the best trials are diamonds."""
    columns, chosen = min(3, len(settings)), list(best)
    rows = -(-len(settings) // columns)
    with canvas(2.5 * columns, 2.4 * rows) as (figure, rendered):
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axis in axes.flat[len(settings) :]:
            axis.set_axis_off()
        for axis, setting in zip(axes.flat, settings, strict=False):
            places = setting.places
            axis.scatter(places, values, s=14, color=palette(["dots"])["dots"], alpha=0.7, linewidths=0)
            axis.scatter(places[chosen], values[chosen], s=46, color=_BEST, marker="D", linewidths=0)
            setting.dress(axis, "x")
            plain(axis, grid="y")
        for axis in axes[:, 0]:
            axis.set_ylabel(objective)
    return rendered()


def front(
    values: Float[np.ndarray, "N 2"],
    *,
    objectives: Sequence[str],
    largest: bool,
    best: Sequence[int],
    numbers: Sequence[int],
) -> bytes:
    """Two objectives against each other, a dot per trial; the Pareto front is a staircase of numbered diamonds.

    Args:
        values: of the trials.
        objectives: names of the two.
        largest: whether the largest is best in the first.
        best: places of the front in `values`; none of these trials is beaten in both objectives.
        numbers: of all trials.
    """
    with canvas(5.0, 3.8) as (figure, rendered):
        axis = figure.subplots()
        axis.scatter(values[:, 0], values[:, 1], s=18, color=palette(["dots"])["dots"], alpha=0.7, linewidths=0)
        ordered = sorted(best, key=lambda place: tuple(values[place]))
        steps = "steps-pre" if largest else "steps-post"  # what is reached at least as far along the first objective
        axis.plot(values[ordered, 0], values[ordered, 1], drawstyle=steps, color=_BEST, linewidth=1.0)
        axis.scatter(values[ordered, 0], values[ordered, 1], s=36, color=_BEST, marker="D", linewidths=0, zorder=3)
        for place in ordered:
            axis.annotate(
                str(numbers[place]), values[place], (5, -9), textcoords="offset points", fontsize=7, color=_INK
            )
        axis.set_xlabel(objectives[0])
        axis.set_ylabel(objectives[1])
        plain(axis, grid="y")
    return rendered()


def surface(
    across: Setting, along: Setting, values: Float[np.ndarray, " N"], *, objective: str, sign: int, best: Sequence[int]
) -> bytes:
    """Fig. 8: the objective over two settings, linear between the trials; other settings vary freely underneath.

    Of trials at one place the best is taken. With fewer than four places, or all on a line, the points stand alone.

    Args:
        across: the setting of the horizontal axis.
        along: of the vertical axis.
        values: of the trials.
        objective: its name.
        sign: 1 where the largest is best, -1 where the smallest is.
        best: places of the best trials.
    """
    x, y = across.flat, along.flat
    shown = _best_of_each_place(x, y, sign * values)
    low, high = values[shown].min(), values[shown].max()
    levels = np.linspace(low, high if high > low else low + 1, 13)
    with canvas(5.0, 3.8) as (figure, rendered):
        axis = figure.subplots()
        drawn = None
        if _spans(x, y):
            triangles = Triangulation(x[shown], y[shown])
            drawn = axis.tricontourf(triangles, values[shown], levels=levels, cmap="viridis", alpha=0.85)
        colours = {"cmap": "viridis", "vmin": levels[0], "vmax": levels[-1]}
        dots = axis.scatter(x[shown], y[shown], c=values[shown], s=22, edgecolors="white", linewidths=0.8, **colours)
        chosen = list(best)
        axis.scatter(x[chosen], y[chosen], s=90, facecolors="none", edgecolors=_BEST, marker="D", linewidths=1.6)
        across.dress_flat(axis, "x")
        along.dress_flat(axis, "y")
        bar = figure.colorbar(drawn or dots, ax=axis, label=objective, format="%.4g")
        bar.set_ticks(levels[::3].tolist())
        axis.tick_params(color=_MUTED)
    return rendered()


def _best_of_each_place(x: NDArray[np.float64], y: NDArray[np.float64], goodness: NDArray[np.float64]) -> list[int]:
    """One trial a place, in the trials' order: triangles need different corners, and the last drawn would hide all."""
    chosen: dict[tuple[float, float], int] = {}
    for number, place in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        if place not in chosen or goodness[number] > goodness[chosen[place]]:
            chosen[place] = number
    return sorted(chosen.values())


def _spans(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Whether the points span a plane, so that there are triangles to fill."""
    distinct = np.unique(np.stack([x, y], axis=1), axis=0)
    if len(distinct) < 4:
        return False
    return bool(np.linalg.matrix_rank(distinct - distinct.mean(axis=0), tol=1e-6) == 2)

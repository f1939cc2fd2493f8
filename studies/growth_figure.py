"""Time per step against the number of tracked samples: the paper's Figure 1, and the step itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydragrad.errors import PresentationError
from hydragrad.figures.style import BLUE, GREEN, QUIET, VERMILLION, drawing, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {"eager": ("all rows at every step", "--", "s"), "tracker": ("Tracker", "-", "o")}


def growth(timings: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw time per step, and per step, sample and parameter, against the number of tracked samples.

    Args:
        timings: Rows with `model`, `kind` (plain, tracker or eager), `tracked`, `seconds` (per step) and
            `per_sample_and_parameter` (seconds).

    Raises:
        PresentationError: No timing of tracked steps.
    """
    tracked = [row for row in timings if row["kind"] in _STYLES]
    if not tracked:
        raise PresentationError("At least one timing of tracked steps is needed, got none.")
    models = list(dict.fromkeys(row["model"] for row in tracked))
    colours = dict(zip(models, (BLUE, VERMILLION, GREEN, *[QUIET] * len(models)), strict=False))
    with drawing():
        figure, (above, below) = new_figure(height=6.4, rows=2)
        for axes, key in ((above, "per_sample_and_parameter"), (below, "seconds")):
            for model in models:
                for kind in _STYLES:
                    _draw(axes, [row for row in tracked if (row["model"], row["kind"]) == (model, kind)], key, colours)
            axes.set(xscale="log", yscale="log")
        for row in timings:
            if row["kind"] == "plain" and row["model"] in colours:
                below.axhline(row["seconds"], color=colours[row["model"]], linestyle=":", linewidth=1)
        above.set_ylabel("seconds per step,\nsample and parameter")
        below.set_ylabel("seconds per step\n(dotted: plain)")
        below.set_xlabel("tracked samples")
        figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, colours: Mapping[str, str]) -> None:
    if rows:
        name, dashes, marker = _STYLES[rows[0]["kind"]]
        rows = sorted(rows, key=lambda row: int(row["tracked"]))
        model = str(rows[0]["model"])
        axes.plot(
            [row["tracked"] for row in rows],
            [row[key] for row in rows],
            color=colours[model],
            linestyle=dashes,
            marker=marker,
            label=plain(f"{model}, {name}"),
        )

"""Loss and accuracy over the epochs of a run."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hydragrad.errors import PresentationError
from hydragrad.figures.style import BLUE, GREEN, QUIET, VERMILLION, drawing, new_figure, plain

_LOOKS = {"train": (BLUE, "-"), "validation": (VERMILLION, "--"), "test": (GREEN, "-.")}
_NAMES = {"train": "training"}


def training_curves(logs: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss over epochs and, where it was measured, accuracy below it.

    Args:
        logs: One entry an epoch: `epoch` (counted from 0), and any of `<part>_loss` and `<part>_accuracy` (a
            fraction). What is missing or NaN leaves a gap.

    Raises:
        PresentationError: No epochs, or nothing that was measured.
    """
    measured = {key: None for log in logs for key in log}  # in the order of their first mention
    panels = [[key for key in measured if key.endswith(end)] for end in ("_loss", "_accuracy")]
    if not any(panels):
        raise PresentationError("The epoch logs hold no loss and no accuracy, so there are no curves to draw.")
    shown = [keys for keys in panels if keys]
    with drawing():
        figure, rows = new_figure(height=0.6 + 2.1 * len(shown), rows=len(shown))
        for axes, keys in zip(rows, shown, strict=True):
            _draw(axes, logs, keys)
        rows[-1].set_xlabel("epoch")
        rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if len(logs) == 1:
            rows[-1].set_xlim(logs[0]["epoch"], logs[0]["epoch"] + 2)
    return figure


def _draw(axes: Axes, logs: Sequence[Mapping[str, float]], keys: Sequence[str]) -> None:
    epochs = [log["epoch"] + 1 for log in logs]
    marker = "o" if len(epochs) < 3 else ""
    for key in keys:
        part = key.rsplit("_", 1)[0]
        colour, dashes = _LOOKS.get(part, (QUIET, ":"))
        values = [float(log.get(key, float("nan"))) for log in logs]
        name = plain(_NAMES.get(part, part.replace("_", " ")))
        axes.plot(epochs, values, color=colour, linestyle=dashes, marker=marker, label=name)
    if keys[0].endswith("_accuracy"):
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    else:
        axes.set_ylabel("loss")
    axes.legend()

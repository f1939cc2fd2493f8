"""The numbers behind the page's charts; the page draws them, and shows them as tables on request."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hydragrad.reports.comparisons import Comparison
from hydragrad.reports.listing import flipped

POINTS = 200
"""Points of a line, beyond which no eye sees more."""


def curves(logs: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Loss and accuracy by epoch: one chart each, with a line for every part of the data that was measured."""
    charts = []
    keys = list(dict.fromkeys(key for log in logs for key in log))
    for what in ("loss", "accuracy"):
        lines = []
        for key in (key for key in keys if key.endswith(f"_{what}")):
            part = key.removesuffix(f"_{what}")
            values = [_finite(log.get(key)) for log in logs]
            lines.append({"name": {"train": "training"}.get(part, part.replace("_", " ")), "y": values})
        if lines:
            charts.append({"what": what, "x": [log["epoch"] + 1 for log in logs], "lines": lines})
    return charts


def scatters(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Predicted against actual changes."""
    return [
        {
            "name": one.name,
            "unit": one.unit,
            "predicted": one.predicted.tolist(),
            "actual": one.actual.tolist(),
            "group_names": one.group_names,
        }
        for one in comparisons
    ]


def detection(listed: pd.DataFrame) -> dict[str, Any] | None:
    """Share of the flipped labels found against share inspected, where the truth is known."""
    known = flipped(listed)
    if known is None or not known.any():
        return None
    share = np.concatenate([[0.0], known.cumsum() / known.sum()])
    counts = np.unique(np.linspace(0, len(known), min(len(known), POINTS) + 1).astype(int))
    return {
        "inspected": (counts / len(known)).tolist(),
        "found": share[counts].tolist(),
        "wrong": float(known.mean()),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)

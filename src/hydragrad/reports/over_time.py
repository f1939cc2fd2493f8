"""Contributions over training time: what every stretch of the run added."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hydragrad.replay import Recording
from hydragrad.reports.listing import flipped
from hydragrad.reports.packing import packed
from hydragrad.scores import Scores

EXTREME = 0.01
"""Share of the samples that are called the most harmful, and the most helpful."""


def over_time(
    run: Recording, scores: Scores, position: int, listed: pd.DataFrame, shown: Sequence[int], factor: float
) -> dict[str, Any] | None:
    """Mean contributions of groups by stretch, and those of single samples; None where the scores do not hold them.

    Args:
        run: Says whether stretches are epochs.
        scores: With `over_time`.
        position: Row of the query.
        listed: All scored samples.
        shown: Samples whose stretches are on the page, ids.
        factor: What contributions are multiplied by before they are shown.
    """
    if scores.over_time is None:
        return None
    values = factor * scores.over_time[position].numpy()  # (stretches, samples)
    stretches = values.shape[0]
    column = {sample: at for at, sample in enumerate(scores.sample_ids.tolist())}
    scored = [sample for sample in shown if sample in column]
    groups = {"all samples": listed["sample"].to_numpy()} | _extremes(listed)
    known = flipped(listed)
    if known is not None and known.any():
        groups["wrong labels"] = listed["sample"].to_numpy()[known]
    epochs = run.completed and run.manifest.about.get("epochs") == stretches
    return {
        "unit": "epoch" if epochs else f"stretch of the training, 1 to {stretches}",
        "ends": list(range(1, stretches + 1)),
        "groups": [
            {"name": name, "mean": values[:, [column[i] for i in ids.tolist()]].mean(1, dtype=np.float64).tolist()}
            for name, ids in groups.items()
            if len(ids)
        ],
        "ids": packed(scored, "u4"),
        "values": packed(values[:, [column[i] for i in scored]].T, "f4"),
    }


def _extremes(listed: pd.DataFrame) -> dict[str, Any]:
    ordered = listed.sort_values("contribution", kind="stable")["sample"].to_numpy()
    count = max(1, round(EXTREME * len(ordered)))
    return {f"the {count:,} most harmful": ordered[:count], f"the {count:,} most helpful": ordered[-count:]}

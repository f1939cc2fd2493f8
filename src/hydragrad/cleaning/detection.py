"""How well a ranking detects the labels that are known to be wrong."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def area_under_roc(ranked: pd.DataFrame) -> float | None:
    """Probability that a flipped sample is more suspect than one that is not; None where there is only one kind.

    Args:
        ranked: Suspects with `suspicion` and `flipped`.
    """
    flipped = ranked["flipped"].to_numpy()
    if flipped.all() or not flipped.any():
        return None
    from sklearn.metrics import roc_auc_score  # slow to import

    return float(roc_auc_score(flipped, ranked["suspicion"].to_numpy()))


def found_in_first(ranked: pd.DataFrame, share: float) -> float | None:
    """Share of all flipped samples among the first `share` of the ranking; None where none is flipped."""
    flipped = ranked["flipped"].to_numpy()
    if not flipped.any():
        return None
    return float(flipped[: int(share * len(flipped))].sum() / flipped.sum())


def detection_curve(ranked: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share inspected, and share of the flipped samples detected by then, each float64 (samples + 1,)."""
    detected = np.concatenate([[0], np.cumsum(ranked["flipped"].to_numpy())])
    return np.linspace(0, 1, len(detected)), detected / max(1, detected[-1])

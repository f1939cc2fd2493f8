"""Suspects in groups that agree with one another, so that a person judges a group rather than its samples one by one.

Samples of a group have the same given and suggested label, and pull the trained model the same way: their gradients are
near. Inside every pair of labels they are joined, the nearest first, as long as the mean cosine between two groups is
large enough (average linkage). Contributions add up: the groups whose samples together harm held-out data most come
first. The largest ones may be right labels of a kind that the network has not learned.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch.nn.functional as F
from numpy.typing import NDArray

from hydragrad.attribution.sample_rows import projected_gradients
from hydragrad.cleaning.target_evidence import RESIDUALS
from hydragrad.errors import QueryError
from hydragrad.replay import Recording
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints

MOST = 2000
"""Suspects that are grouped where their number is not given, at most."""

SHOWN = 5
"""Samples that stand for a group."""


@in_clean_surroundings
def suspect_groups(
    run: Recording | Checkpoints,
    suspects: pd.DataFrame,
    *,
    first: int | None = None,
    nearness: float = 0.5,
    dims: int = 1024,
) -> pd.DataFrame:
    """Gather suspects into groups with the same given and suggested label whose gradients are near.

    Args:
        run: The run or the checkpoints that the suspects are of.
        suspects: What `hg.suspects` returned, with suggestions.
        first: How many of the first suspects to group. None takes those for which another label is suggested (of
            values: a residual of three median absolute deviations or more), the first 2,000 at most.
        nearness: Mean cosine between the gradients of two groups from which on they are one, 0 to 1.
        dims: Columns that gradients are projected to.

    Returns:
        One row a group, the one that harms most first: `given` and `suggested` (classes; of values "too high" or "too
        low" as `given` and nothing suggested; with `class` of multi-label), `size`, `agreement` (mean cosine between
        gradients of two of its samples, of projections; NaN of a single one), `suspicion` (mean), `contribution` (sum;
        negative: together they harm),
        `representatives` (up to five samples, those nearest to all others of the group first) and `samples` (all, the
        most suspect first). Where the suspects say which labels were flipped, `flipped` is the share of the group.
        `frame.attrs["suspects"]` is how many were grouped.

    Raises:
        QueryError: Suspects without suggestions, or `first` or `nearness` out of range.
        NonFinite: Samples whose gradients are not finite.

    Cost: a backward pass a suspect, and the cosines of all pairs with the same labels.
    """
    if first is not None and first < 1:
        raise QueryError(f"first must be 1 or more suspects, or None, got {first}.")
    if not 0 <= nearness <= 1:
        raise QueryError(f"nearness is a cosine from 0 to 1, got {nearness}.")
    pairs = _pairs(suspects)
    chosen = _chosen(suspects, pairs, first)
    frame = pd.concat([suspects.loc[chosen], pairs.loc[chosen]], axis=1)
    rows = F.normalize(projected_gradients(run, frame["sample"].tolist(), dims=dims).double(), dim=1).numpy()
    groups = list[dict[str, Any]]()
    frame = frame.reset_index(drop=True)
    for key, part in frame.groupby(list(pairs.columns), sort=False, dropna=False):
        cosines = rows[part.index] @ rows[part.index].T
        for places in _joined(cosines, nearness):
            inside = cosines[np.ix_(places, places)]
            groups.append(dict(zip(pairs.columns, key, strict=True)) | _described(part.iloc[places], inside))
    names = [*pairs.columns, "size", "agreement", "suspicion", "contribution", "representatives", "samples"]
    found = pd.DataFrame(groups, columns=[*names, "flipped"] if "flipped" in suspects else names)
    found = found.sort_values("contribution", kind="stable", ignore_index=True)
    found.columns = pd.Index([name.removeprefix("pair_") for name in found.columns])
    found.attrs["suspects"] = len(frame)
    return found


def _pairs(suspects: pd.DataFrame) -> pd.DataFrame:
    """What the samples of a group have in common, as columns pair_...

    Raises:
        QueryError: The suspects do not say.
    """
    if {"sample", "given_label", "suggested_label"} <= set(suspects):
        pairs = {"given": suspects["given_label"], "suggested": suspects["suggested_label"]}
    elif "residual" in suspects:
        high = np.where(suspects["residual"] > 0, "too high", "too low")
        columns = {"column": suspects["column"]} if "column" in suspects else {}
        pairs = columns | {"given": pd.Series(high, index=suspects.index)}
    elif {"sample", "given_target", "suggested_target"} <= set(suspects):
        columns = {"class": suspects["class"]} if "class" in suspects else {}
        pairs = columns | {"given": suspects["given_target"], "suggested": suspects["suggested_target"]}
    else:
        raise QueryError(
            "Groups need suspects with given and suggested labels. Pass what hg.suspects(run, scores) returned; from "
            "signals=None alone there are suggestions only for scores with labels=True."
        )
    return pd.DataFrame({f"pair_{name}": column for name, column in pairs.items()})


def _chosen(suspects: pd.DataFrame, pairs: pd.DataFrame, first: int | None) -> pd.Index:
    if first is not None:
        return suspects.index[:first]
    if "residual" in suspects:
        return suspects.index[suspects["evidence"] >= RESIDUALS][:MOST]
    return suspects.index[pairs["pair_given"] != pairs["pair_suggested"]][:MOST]


def _joined(cosines: NDArray[np.float64], nearness: float) -> list[NDArray[np.int64]]:
    """Places of every group's samples."""
    if len(cosines) == 1:
        return [np.zeros(1, dtype=np.int64)]
    from sklearn.cluster import AgglomerativeClustering  # slow to import

    clustering = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - nearness
    )
    distances = (1 - cosines).clip(min=0)
    np.fill_diagonal(distances, 0)
    labels = clustering.fit_predict(distances)
    return [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]


def _described(part: pd.DataFrame, cosines: NDArray[np.float64]) -> dict[str, Any]:
    size = len(part)
    central = np.argsort(-cosines.sum(1), kind="stable")[:SHOWN]
    described = {
        "size": size,
        "agreement": float((cosines.sum() - np.trace(cosines)) / (size * (size - 1))) if size > 1 else float("nan"),
        "suspicion": float(part["suspicion"].mean()),
        "contribution": float(part["contribution"].sum()),
        "representatives": tuple(part["sample"].iloc[central].tolist()),
        "samples": tuple(part["sample"].tolist()),
    }
    return described | ({"flipped": float(part["flipped"].mean())} if "flipped" in part else {})

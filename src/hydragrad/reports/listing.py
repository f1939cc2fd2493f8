"""All scored samples in one table, the most suspect first."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hydragrad.cleaning import suspects as rank_suspects
from hydragrad.errors import LossError, PresentationError
from hydragrad.replay import Recording, Trained, labels_of
from hydragrad.reports.targets import COLUMNS as TARGET_COLUMNS
from hydragrad.scores import Scores
from hydragrad.trained_elsewhere import Checkpoints

NEEDED = ("sample", "given_label", "contribution")
KNOWN = ("suggested_label", "true_label", "flipped", "confidence", "standard_error")
NAMES_OF_LABELS = KNOWN[:2]

BY_CLASS = 4
"""Extremes of every class that are shown, on either side."""


def listing(
    run: Recording | Checkpoints, scores: Scores, query: str | int, suspects: pd.DataFrame | None
) -> pd.DataFrame:
    """List every scored sample: sample, given_label, contribution, and whatever else the suspects hold.

    Args:
        run: The run.
        scores: Contributions.
        query: Which of them.
        suspects: Most suspect first; samples that they leave out follow, the most harmful first. None ranks by
            contribution, with suggested labels where the scores hold label contributions.

    Raises:
        PresentationError: A column of the suspects is missing, or a sample stands in them twice or has no score.
    """
    if suspects is None:
        if scores.label_contributions is not None:
            try:
                return rank_suspects(run, scores, query=query)
            except LossError:
                pass  # no labels to suggest others for
        return _by_contribution(run, scores, query)
    suspects = require_suspects(suspects)
    scored = set(scores.sample_ids.tolist())
    ids = suspects["sample"].tolist()
    if len(set(ids)) < len(ids) or not scored.issuperset(ids):
        raise PresentationError("Every suspect must be a scored sample, listed once. Pass what hg.suspects returned.")
    known = suspects[[name for name in (*NEEDED, *KNOWN, *TARGET_COLUMNS) if name in suspects]].reset_index(drop=True)
    if len(ids) < len(scored):
        rest = _by_contribution(run, scores, query)
        known = pd.concat([known, rest[~rest["sample"].isin(ids)]], ignore_index=True)
    known.attrs |= {name: suspects.attrs[name] for name in ("kind", "how") if name in suspects.attrs}
    return known


def require_suspects(suspects: pd.DataFrame) -> pd.DataFrame:
    """Return suspects with the sample as a column; those of targets that are more than one class have no label.

    Raises:
        PresentationError: A column is missing.
    """
    if "sample" not in suspects and suspects.index.name == "sample":
        suspects = suspects.reset_index()
    if suspects.attrs.get("kind", "classes") != "classes" or "given_target" in suspects:
        suspects = suspects.assign(
            given_label=None
        )  # targets that are more than one class stand in columns of their own
    missing = [name for name in NEEDED if name not in suspects]
    if missing:
        raise PresentationError(
            f"The suspects need the columns {', '.join(NEEDED)}; {', '.join(missing)} is missing. Pass what "
            f"hg.suspects returned."
        )
    return suspects


def extremes(listed: pd.DataFrame, count: int = BY_CLASS) -> list[int]:
    """The most harmful and most helpful samples of every given label, `count` of each."""
    ordered = listed.sort_values("contribution", kind="stable")
    groups = ordered.groupby("given_label", sort=True, dropna=False)["sample"]
    return [int(i) for part in (groups.head(count), groups.tail(count)) for i in part]


def flipped(listed: pd.DataFrame) -> NDArray[np.bool_] | None:
    """Which samples carry a flipped label, if that is known of every one."""
    if "flipped" not in listed or listed["flipped"].isna().any():
        return None
    return listed["flipped"].to_numpy(dtype=bool)


def given_labels(run: Trained, samples: Sequence[int]) -> Sequence[int | None]:
    """The labels that samples were trained on; None where no tensor of the batches is the label, or several are."""
    try:
        return labels_of(run, samples).tolist()
    except LossError:
        return [None] * len(samples)


def _by_contribution(run: Trained, scores: Scores, query: str | int) -> pd.DataFrame:
    ids = scores.sample_ids.tolist()
    labels = np.array(given_labels(run, ids), dtype=object)
    frame = pd.DataFrame({"sample": ids, "given_label": labels, "contribution": scores.row(query).numpy()})
    errors = scores.standard_errors_of(query)
    if errors is not None:
        frame["standard_error"] = errors.numpy()
    return frame.sort_values("contribution", kind="stable", ignore_index=True)

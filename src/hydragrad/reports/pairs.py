"""Near duplicates as the page shows them: pairs inside the training set, and training samples in held-out data."""

from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from hydragrad.errors import PresentationError, QueryError
from hydragrad.replay import Recording, samples_in
from hydragrad.reports.labels import LabelNames
from hydragrad.reports.packing import packed
from hydragrad.reports.predictions import predictions
from hydragrad.trained_elsewhere import Checkpoints

NEEDED = ("sample", "other", "same_input", "nearness", "gradient_cosine", "input_cosine")


def require_pairs(pairs: pd.DataFrame, name: str, run: Recording | Checkpoints, others: Dataset[Any] | None) -> None:
    """Refuse pairs that are not of these data.

    Args:
        pairs: What hg.near_duplicates returned.
        name: Of the argument, for messages.
        run: Whose training samples they are.
        others: The held-out data that `other` is of; None for the training set.

    Raises:
        PresentationError: A column is missing, or samples that there are not.
    """
    missing = [column for column in NEEDED if column not in pairs]
    if missing:
        raise PresentationError(
            f"{name} needs the columns {', '.join(NEEDED)}; {', '.join(missing)} is missing. Pass what "
            f"hg.near_duplicates returned."
        )
    held_out = pairs.attrs.get("held_out")
    if held_out is not None and held_out != (others is not None):
        raise PresentationError(
            "duplicates are pairs inside the training set, hg.near_duplicates(run); leaks are training samples in the "
            f"test set, hg.near_duplicates(run, test_set). {name} holds the other ones."
        )
    for column, length in (("sample", samples_in(run)), ("other", samples_in(run) if others is None else len(others))):  # type: ignore[arg-type]
        wrong = pairs[column][(pairs[column] < 0) | (pairs[column] >= length)]
        if len(wrong):
            raise PresentationError(
                f"{name} names {column} {wrong.iloc[0]:,}; there are samples 0 to {length - 1:,}. Pass what "
                f"hg.near_duplicates returned for these data."
            )


def require_test_set(test_set: Dataset[Any] | None) -> Dataset[Any]:
    """Return the test set in which training samples were found.

    Raises:
        QueryError: There is none.
    """
    if test_set is None:
        raise QueryError("leaks are training samples in held-out data. Pass those data as well: test_set=...")
    return test_set


def labels_in(run: Recording | Checkpoints, test_set: Dataset[Any], samples: list[int]) -> list[int | None]:
    """The labels of held-out samples; None where there are none."""
    given = predictions(run, test_set, samples).given if samples else None
    return [None] * len(samples) if given is None else given.tolist()


def packed_pairs(pairs: pd.DataFrame, labels: LabelNames, others: list[int | None] | None) -> dict[str, Any]:
    """Columns of pairs, in their order; with the labels of held-out samples, where `other` is one."""
    columns: dict[str, Any] = {
        "sample": packed(pairs["sample"], "u4"),
        "other": packed(pairs["other"], "u4"),
        "same": packed(pairs["same_input"].to_numpy(bool), "u1"),
        **{name: packed(pairs[name], "f4") for name in ("nearness", "gradient_cosine", "input_cosine")},
    }
    if others is not None and any(label is not None for label in others):
        columns["other_label"] = packed(np.asarray(labels.codes(others)), "u2")
    return columns

"""Targets that are more than one class a sample: values, several labels, classes at positions."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from hydragrad.derivatives import tensor_leaves
from hydragrad.replay import Trained, target_of
from hydragrad.reports.packing import Kind, Packed, packed

COLUMNS: dict[str, Kind] = {
    "given_target": "f8",
    "suggested_target": "f8",
    "residual": "f4",
    "spread": "f4",
    "disagree": "f4",
    "strongest": "f4",
    "evidence": "f4",
    "loss": "f4",
    "class": "f4",
    "column": "f4",
    "position": "f4",
}
"""What suspects hold of targets, NaN where a sample is no suspect."""


def target_columns(listed: pd.DataFrame) -> dict[str, Packed]:
    """The columns of targets, where the suspects have them."""
    if "given_target" not in listed:
        return {}
    return {name: packed(listed[name].astype(float), kind) for name, kind in COLUMNS.items() if name in listed}


def target_facts(run: Trained, listed: pd.DataFrame, classes: Sequence[str] | None) -> dict[str, Any] | None:
    """What the page must know to show targets; None where there are none.

    Returns:
        Their `kind`, `how` it was found, and `names` of classes or None. Of positions also the `shape` that places are
        counted in, and the `shift` of the parts of the loss: part n is about position n + shift.
    """
    if "given_target" not in listed:
        return None
    kind = str(listed.attrs.get("kind", "values"))
    facts = {"kind": kind, "how": listed.attrs.get("how", ""), "names": None if classes is None else list(classes)}
    if kind != "positions":
        return facts
    target = target_of(run)
    leaf = tensor_leaves(run.collate([int(listed["sample"].iloc[0])]))[target.leaf]
    return facts | {"shape": list(leaf.shape[1:]), "shift": target.shift}

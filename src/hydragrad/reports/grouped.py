"""Groups of suspects as the page shows them: a person judges a group rather than its samples one by one."""

from collections.abc import Collection
from typing import Any

import pandas as pd

from hydragrad.errors import PresentationError
from hydragrad.reports.labels import LabelNames, plain
from hydragrad.reports.packing import packed

NEEDED = ("given", "size", "agreement", "contribution", "representatives", "samples")


def require_groups(groups: pd.DataFrame, listed: pd.DataFrame) -> pd.DataFrame:
    """Return groups whose samples are all listed, each in one group.

    Raises:
        PresentationError: A column is missing, or a sample is not listed or is in two groups.
    """
    missing = [name for name in NEEDED if name not in groups]
    if missing:
        raise PresentationError(
            f"Groups need the columns {', '.join(NEEDED)}; {', '.join(missing)} is missing. Pass what "
            f"hg.suspect_groups returned."
        )
    members = [sample for samples in groups["samples"] for sample in samples]
    if len(set(members)) < len(members) or not set(listed["sample"].tolist()).issuperset(members):
        raise PresentationError(
            "Every sample of a group must be a scored one, and in one group. Pass what hg.suspect_groups returned for "
            "the suspects of this run."
        )
    return groups


def members_shown(groups: pd.DataFrame, most: int) -> list[int]:
    """Samples of groups that are shown: all representatives, and of the others `most`, in the order of the groups."""
    first = [sample for samples in groups["representatives"] for sample in samples]
    rest = [sample for samples in groups["samples"] for sample in samples]
    return list(dict.fromkeys([*first, *rest[:most]]))


def packed_groups(groups: pd.DataFrame, labels: LabelNames, classes: Collection[str] | None) -> list[dict[str, Any]]:
    """Plain data of groups, in their order.

    Args:
        groups: What hg.suspect_groups returned.
        labels: Of samples with one label each.
        classes: Names of the classes, where a sample has several labels, or classes at positions.
    """
    names = None if classes is None else list(map(str, classes))
    return [_group(row, labels, names) for row in groups.to_dict("records")]


def _group(row: dict[Any, Any], labels: LabelNames, classes: list[str] | None) -> dict[str, Any]:
    first = list(row["representatives"])
    group = {
        "pair": _pair(row, labels, classes),
        "agreement": float(row["agreement"]),
        "contribution": float(row["contribution"]),
        "samples": packed(list(dict.fromkeys([*first, *row["samples"]])), "u4"),
    }
    return group | ({"flipped": float(row["flipped"])} if "flipped" in row else {})


def _pair(row: dict[Any, Any], labels: LabelNames, classes: list[str] | None) -> list[str]:
    """What its samples have in common: given and suggested label; where there are several, of which class or column."""
    given, suggested = row["given"], row.get("suggested")
    if "class" in row:
        name = _called(row["class"], classes)
        return [f"{name}: {ANSWERS[int(given)]}", ANSWERS[int(suggested)]]  # type: ignore[arg-type]
    if isinstance(given, str) and suggested is None:
        return [f"column {row['column']}: {given}" if "column" in row else given]
    if labels.values:
        return [labels.name(plain(given)), labels.name(plain(suggested))]
    return [_called(given, classes), _called(suggested, classes)]


ANSWERS = ("no", "yes")
"""0 and 1, where a sample has several labels."""


def _called(number: Any, classes: list[str] | None) -> str:
    return str(int(number)) if classes is None or not 0 <= int(number) < len(classes) else classes[int(number)]

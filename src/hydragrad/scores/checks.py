"""Checks: predicted against actual changes, measured by really training without groups of samples."""

from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from hydragrad.scores.method import Curvature, Removal

CheckKind = Literal["random", "extremes", "given"]

WELL, FAIRLY, WEAKLY = 0.8, 0.5, 0.2
"""LDS from which predictions are said to rank removals well, fairly and weakly."""
RIGHT_SIZE = 0.05
"""How far the scale may be from 1 for predictions to have the right size."""

Interval = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Check:
    """Predicted against actual changes of one query over groups of samples. None stands for what is not defined.

    Attributes:
        name: A heading for people.
        kind: Which groups: random ones, the most harmful and the most helpful one (extremes), or groups that somebody
            named (given).
        unit: Name of the query, whose unit the changes have.
        curvature: What the predictions were computed with.
        size: Samples in a group; None where sizes differ.
        groups: How many groups.
        group_names: A name for each group.
        group_sizes: Samples of each group, where they differ.
        queries: How many queries the measures are taken over.
        predicted: Predicted changes of the query, one a group.
        actual: Measured changes of the query, one a group.
        slope: Of actual on predicted changes, with an offset.
        scale: The same through the origin: what to multiply predictions by.
        pearson: Pearson's correlation over the groups.
        spearman: Spearman's correlation over the groups.
        lds: Spearman's correlation over the groups, mean over the queries.
        lds_interval: Its 90 % bootstrap interval over the groups.
        lds_per_query: The correlation of each query.
        sign_agreement: Share of predictions with the right sign.
        ceiling_lds: The same LDS of a repeat of the run, one rounding apart; None if not measured.
        ceiling_interval: Its 90 % bootstrap interval.
        removal: What leaving the groups out meant.
    """

    name: str = ""
    kind: CheckKind = "given"
    unit: str = ""
    curvature: Curvature | None = None
    size: int | None = None
    groups: int = 0
    group_names: tuple[str, ...] | None = None
    group_sizes: tuple[int, ...] | None = None
    queries: int = 1
    predicted: tuple[float, ...] = ()
    actual: tuple[float, ...] = ()
    slope: float | None = None
    scale: float | None = None
    pearson: float | None = None
    spearman: float | None = None
    lds: float | None = None
    lds_interval: Interval = (None, None)
    lds_per_query: tuple[float | None, ...] = ()
    sign_agreement: float | None = None
    ceiling_lds: float | None = None
    ceiling_interval: Interval | None = None
    removal: Removal = "weight"

    @property
    def sentence(self) -> str:
        """What the check means, in one plain sentence."""
        if self.lds is None:
            return f"{self.groups} groups are too few, or too alike, to show how well predictions rank removals."
        grades = ((WELL, "rank removals well"), (FAIRLY, "rank removals fairly"), (WEAKLY, "rank removals weakly"))
        ranks = next((words for least, words in grades if self.lds >= least), "do not rank removals")
        return (
            f"Predicted changes {ranks} (LDS {_short(self.lds)}{self._interval()}) and {self._size()}.{self._ceiling()}"
        )

    def replaces(self, other: "Check") -> bool:
        """Whether it measures the same again: the same query over groups of the same kind and size, left out alike."""
        return (self.kind, self.size, self.unit, self.removal) == (other.kind, other.size, other.unit, other.removal)

    def __getitem__(self, name: str) -> Any:
        """A field by its name, as in a plain dict."""
        return getattr(self, name)

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Self:
        """A check from a file or from a plain dict; entries that are not known are passed over.

        Checks once were dicts, with `random` in place of `kind`, and names of the groups in place of their number.
        """
        known = {entry.name for entry in fields(cls)}
        values = {name: _tuples(value) for name, value in saved.items() if name in known}
        if isinstance(values.get("groups"), tuple):
            values["group_names"] = values.pop("groups")
        values.setdefault("groups", len(values.get("predicted", ())))
        if values.get("kind") not in get_args(CheckKind):
            values["kind"] = _kind(saved)
        return cls(**values)

    def _interval(self) -> str:
        low, high = self.lds_interval
        if low is None or high is None:
            return ""
        open_ended = low <= 0.0 and high >= FAIRLY  # from no ranking at all to a fair one
        return f" [{_short(low)}, {_short(high)}]" + ("; more groups would narrow it" if open_ended else "")

    def _size(self) -> str:
        if self.scale is None or self.scale <= 0:
            return "say nothing of their size"
        ratio = max(self.scale, 1 / self.scale)
        off = 1 - 1 / self.scale if self.scale > 1 else 1 / self.scale - 1
        if off < RIGHT_SIZE:
            return "have the right size"
        side = "small" if self.scale > 1 else "large"
        return f"are {off:.0%} too {side}".replace("%", " %") if ratio < 2 else f"are {ratio:.3g} times too {side}"

    def _ceiling(self) -> str:
        if self.ceiling_lds is None:
            return ""
        return (
            f" A repeat of the same run, one rounding apart, ranks these removals with LDS {_short(self.ceiling_lds)}: "
            f"more can't be expected of any score."
        )


def _kind(saved: dict[str, Any]) -> CheckKind:
    if saved.get("random"):
        return "random"
    return "given" if saved.get("size") is None else "extremes"


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _short(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1).replace("-", "−")  # + 0.0: no minus before zero

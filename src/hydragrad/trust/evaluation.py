"""What an evaluation found: how well contributions predict the retrainings of a bank, in numbers, a table and text."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd
from torch import Tensor

from hydragrad.scores.checks import Interval

CeilingKind = Literal["rounding", "seeds", "halves"]
WORDS: dict[CeilingKind, str] = {
    "rounding": "a repeat, one rounding apart",
    "seeds": "one half of the seeds for the other",
    "halves": "two halves left out one by one, summed",
}


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What the retrainings themselves predict of retrainings: hardly any score can do better.

    Attributes:
        kind: rounding (the same retrainings from initial weights one rounding apart), seeds (the mean change over one
            half of the seeds for that over the other half), halves (the changes without two halves of a group, summed,
            for that without the whole group: how far removals add up at all).
        lds: As of scores; None where it is not defined.
        interval: Its 90 % bootstrap interval over the subsets.
        groups: How many subsets.
    """

    kind: CeilingKind
    lds: float | None
    interval: Interval
    groups: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Contributions held against a bank. None stands for what is not defined or not covered by the bank.

    Attributes:
        query_names: The queries that both have.
        predicted: Predicted changes of the queries, float64 (queries, groups): summed contributions of what was left
            out.
        actual: Measured changes, float64 (queries, groups), mean over the seeds; the values themselves where those of
            the untouched runs are not known.
        groups: Subsets that were compared: those of several samples, or the single removals where there are no others.
        sizes: Samples that the smallest and the largest of them leaves out.
        lds: Spearman's correlation over the groups, mean over the queries.
        lds_interval: Its 90 % bootstrap interval over the groups.
        lds_per_query: The correlation of each query.
        slope: Of actual on predicted changes, with an offset; median over the queries.
        slope_per_query: Of each query.
        scale: The same through the origin: what to multiply predictions by. Median over the queries.
        scale_per_query: Of each query.
        pearson_per_query: Pearson's correlation over the groups.
        ceilings: What the bank's own repeats reach.
        seed: Which of the bank's runs the scores come from, where known.
        lds_by_seed: The LDS for the retrainings of each seed alone.
        cross_seed_lds: Its mean over the seeds that the scores do not come from.
        singles: Single removals in the bank.
        loo_pearson: Pearson's correlation over single removals, mean over the queries.
        loo_spearman: Spearman's.
        remarks: What a reader must know, one or several sentences each.
        loo_pearson_per_query: Pearson's of each query.
        loo_spearman_per_query: Spearman's of each query.
    """

    query_names: tuple[str, ...]
    predicted: Tensor
    actual: Tensor
    groups: int
    sizes: tuple[int, int]
    lds: float | None
    lds_interval: Interval
    lds_per_query: tuple[float | None, ...]
    slope: float | None
    slope_per_query: tuple[float | None, ...]
    scale: float | None
    scale_per_query: tuple[float | None, ...]
    pearson_per_query: tuple[float | None, ...]
    ceilings: tuple[Ceiling, ...] = ()
    seed: int | None = None
    lds_by_seed: tuple[float | None, ...] = ()
    cross_seed_lds: float | None = None
    singles: int = 0
    loo_pearson: float | None = None
    loo_spearman: float | None = None
    remarks: tuple[str, ...] = ()
    loo_pearson_per_query: tuple[float | None, ...] = ()
    loo_spearman_per_query: tuple[float | None, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row a query; columns are its measures."""
        columns: dict[str, object] = {
            "lds": self.lds_per_query,
            "slope": self.slope_per_query,
            "scale": self.scale_per_query,
            "pearson": self.pearson_per_query,
        }
        if self.singles:
            columns |= {"loo_pearson": self.loo_pearson_per_query, "loo_spearman": self.loo_spearman_per_query}
        return pd.DataFrame(columns, index=pd.Index(self.query_names, name="query"), dtype="float64")

    @property
    def lines(self) -> dict[str, str]:
        """The measures over all queries, by what a person calls them."""
        low, high = self.sizes
        size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        lines = {
            "compared": f"{len(self.query_names):,} queries, {self.groups:,} retrainings without {size} samples",
            "LDS (Spearman over groups)": _with_interval(self.lds, self.lds_interval),
        }
        lines |= {
            f"of {WORDS[ceiling.kind]}": f"{_with_interval(ceiling.lds, ceiling.interval)}, {ceiling.groups:,} groups"
            for ceiling in self.ceilings
        }
        scale = "the untouched run is not in the bank" if self.scale is None else short(self.scale)
        lines["actual over predicted"] = f"{scale} (slope with an offset: {short(self.slope)})"
        if len(self.lds_by_seed) > 1:
            lines["LDS for each seed alone"] = ", ".join(map(short, self.lds_by_seed))
        if self.cross_seed_lds is not None:
            lines["LDS for other seeds than its own"] = short(self.cross_seed_lds)
        if self.singles:
            both = f"Pearson {short(self.loo_pearson)}, Spearman {short(self.loo_spearman)}"
            lines["single removals"] = f"{both} over {self.singles:,}"
        lines |= {f"remark {number}": text for number, text in enumerate(self.remarks, start=1)}
        return lines

    def __str__(self) -> str:
        width = max(map(len, self.lines))
        return "\n".join(f"{name:{width}}  {text}" for name, text in self.lines.items())

    def _repr_html_(self) -> str:
        return pd.Series(self.lines, name="").to_frame().to_html(header=False, border=0)


def short(value: float | None) -> str:
    """A measure with two decimals; a dash where it is not defined."""
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus before zero


def _with_interval(value: float | None, interval: Interval) -> str:
    return f"{short(value)} [{', '.join(map(short, interval))}]"

"""How much two rankings of samples agree at their ends: the share of samples that both have among their first k."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hydragrad.errors import QueryError
from hydragrad.scores import Scores
from hydragrad.trust.matrices import EffectOf, Matrix, Rows, placed
from hydragrad.trust.retrainings import Bank

End = Literal["helpful", "harmful"]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Agreement of two rankings at one end.

    Attributes:
        k: How many samples from the end.
        per_query: Share of them that both rankings have there, float64 (queries,).
        mean: Mean over the queries.
        chance: What two random rankings would have on average.
    """

    k: int
    per_query: Tensor
    mean: float
    chance: float

    def __str__(self) -> str:
        return f"{self.mean:.0%} of the first {self.k:,} in both (chance: {self.chance:.1%})".replace("%", " %")


def top_overlap(
    one: Matrix,
    other: Matrix,
    *,
    k: int = 20,
    end: End = "helpful",
    rows: Rows | None = None,
    effect_of: tuple[EffectOf, EffectOf] = ("removal", "removal"),
    bank: Bank | None = None,
) -> Overlap:
    """Compare the first k samples of two rankings, query by query.

    Args:
        one: `hg.Scores`, or a matrix (queries, samples) of any library.
        other: The same about the same samples, and about one query at least of the first.
        k: How many samples.
        end: The most helpful ones (the largest contributions) or the most harmful ones.
        rows: What the rows of two matrices are, where their shape does not say it.
        effect_of: Of the first and of the second, where it is a matrix: as for `hg.evaluate`.
        bank: Says queries and samples of matrices; they may then be (samples, queries), too.

    Raises:
        QueryError: Other samples or queries, or k out of range.
    """
    if end not in ("helpful", "harmful"):
        raise QueryError(f"end must be one of helpful, harmful, got {end!r}.")
    names, ids = _names_and_ids(one, other, rows) if bank is None else (bank.query_names, bank.sample_ids)
    every = torch.ones(len(ids), dtype=torch.bool)
    found = []
    for matrix, effect in zip((one, other), effect_of, strict=True):
        own = {} if isinstance(matrix, Scores) else {"rows": rows, "effect_of": effect}
        found.append(placed(matrix, query_names=names, sample_ids=ids, needed=every, **own))  # type: ignore[arg-type]
    common = [row for row in found[0].rows if row in found[1].rows]
    if not common or not 1 <= k <= len(ids):
        raise QueryError(f"k must be 1 to {len(ids):,}, the number of samples, and a query in common, got k={k}.")
    sign = 1 if end == "helpful" else -1
    first = [
        np.argsort(-sign * matrix.values[[matrix.rows.index(row) for row in common]], axis=1, kind="stable")[:, :k]
        for matrix in found
    ]
    shares = [len(np.intersect1d(a, b)) / k for a, b in zip(*first, strict=True)]
    per_query = torch.tensor(shares, dtype=torch.float64)
    return Overlap(k=k, per_query=per_query, mean=float(per_query.mean()), chance=k / len(ids))


def _names_and_ids(one: Matrix, other: Matrix, rows: Rows | None) -> tuple[tuple[str, ...], Tensor]:
    for scores in (one, other):
        if isinstance(scores, Scores):
            return scores.query_names, scores.sample_ids
    shape = tuple(np.shape(one))  # type: ignore[arg-type]
    if len(shape) != 2:
        raise QueryError(f"A matrix of shape (queries, samples) was expected, got {shape}.")
    queries, samples = shape if rows != "samples" else shape[::-1]
    return tuple(f"query {row}" for row in range(queries)), torch.arange(samples)

"""Scores relative to self-influence, and how far the extreme samples of several queries are the same.

A sample with a large gradient, as one with a wrong label, is among the most harmful and helpful of every query. Divided
by the root of its self-influence, a score is how much it matters to the query for how much it matters at all.

Source: Barshan, Brunet and Dziugaite, AISTATS 2020 (RelatIF).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hydragrad.errors import QueryError
from hydragrad.scores.notes import Note

RELATIVE = Note(
    "relative",
    "Relative to self-influence: divided by its square root. Read the ranking: the values have no unit of the query, "
    "do not add up over groups and predict no change.",
)
EXTREMES = 10
"""Most harmful and most helpful samples of every query that are compared."""
QUERIES, SAMPLES, ROWS = 5, 20 * EXTREMES, 32
"""From so many queries and samples on they are; and of how many queries, evenly spread, at most."""
MANY = 0.5
"""The share of extreme samples that two queries have in common, on average, from which on a reader is told."""


@dataclass(frozen=True)
class SharedExtremes:
    """How far the k most harmful and the k most helpful samples of queries are the same.

    Attributes:
        k: How many of each query.
        harmful: Share of the most harmful that two queries have in common, on average.
        helpful: The same of the most helpful.
        by_chance: The same of samples that are picked at random.
    """

    k: int
    harmful: float
    helpful: float
    by_chance: float


def overlap_of(values: Tensor, k: int) -> SharedExtremes:
    """Compare the extreme samples of the rows of values (queries, samples).

    Raises:
        QueryError: Fewer than two rows, or a k that leaves nothing out.
    """
    queries, samples = values.shape
    if queries < 2 or not 1 <= k < samples:
        raise QueryError(
            f"An overlap is that of two queries or more, of 1 to {samples - 1} of their samples; there are {queries}, "
            f"and k is {k}."
        )
    harmful, helpful = (_shared(values, k, largest=largest) for largest in (False, True))
    return SharedExtremes(k, harmful, helpful, k / samples)


def same_samples(values: Tensor, *, relative: bool) -> Note | None:
    """What a reader must know where many queries have the same extreme samples, with the remedy; else None."""
    queries, samples = values.shape
    if queries < QUERIES or samples < SAMPLES:
        return None
    rows = values[torch.linspace(0, queries - 1, min(queries, ROWS)).round().long()]
    overlap = overlap_of(rows, EXTREMES)
    if max(overlap.harmful, overlap.helpful) <= MANY:
        return None
    which, share = max((overlap.harmful, "harmful"), (overlap.helpful, "helpful"))[::-1]
    text = (
        f"Two queries share {share:.0%} of their {EXTREMES} most {which} samples on average, {overlap.by_chance:.1%} "
        f"by chance: these samples are extreme for nearly every query rather than for one"
    ).replace("%", " %")
    remedy = "." if relative else "; divide that out: scores.relative_to(hg.self_influence(run))."
    return Note("same samples", text + remedy)


def divisors(values: Tensor, ids: Tensor, self_values: Tensor, self_ids: Tensor) -> Tensor:
    """Roots of self-influence in the order of ids, (samples,); 1 where scores and self-influence are zero.

    Args:
        values: Scores, (queries, samples).
        ids: Their samples.
        self_values: Self-influence, (samples,).
        self_ids: Its samples.

    Raises:
        QueryError: Samples that have no self-influence, or one of zero, but scores.
    """
    place = {sample: at for at, sample in enumerate(self_ids.tolist())}
    missing = [sample for sample in ids.tolist() if sample not in place]
    if missing:
        raise QueryError(
            f"Self-influence must cover the samples of the scores; samples {missing[:5]} have none. Compute it of all: "
            f"hg.self_influence(run)."
        )
    roots = self_values[[place[sample] for sample in ids.tolist()]].clamp(min=0).sqrt()
    nothing = roots == 0
    wrong = ids[nothing & values.ne(0).any(0)].tolist()
    if wrong:
        raise QueryError(
            f"Samples {wrong[:5]} have scores but a self-influence of zero: a relative score would be infinite. "
            f"Take self-influence over more checkpoints, or leave these samples out."
        )
    return torch.where(nothing, 1.0, roots)


def _shared(values: Tensor, k: int, *, largest: bool) -> float:
    """Share of the k extreme samples that two rows have in common, on average over pairs."""
    top = values.topk(k, dim=1, largest=largest).indices
    counts = torch.bincount(top.flatten(), minlength=values.shape[1]).double()
    return float((counts * (counts - 1)).sum()) / (k * len(values) * (len(values) - 1))

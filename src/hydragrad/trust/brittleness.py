"""`brittleness`: what a query loses when the samples that a score calls most helpful are really left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hydragrad.errors import QueryError
from hydragrad.execution import ExecutorOption
from hydragrad.replay import Recording
from hydragrad.scores import Query, Removal, Scores, numbered, queries_of
from hydragrad.trust.counterfactual import counterfactual
from hydragrad.trust.matrices import EffectOf, Matrix, Rows, placed


@dataclass(frozen=True, kw_only=True)
class Brittleness:
    """Real changes without the most helpful samples of each query.

    Attributes:
        query_names: One name a query.
        size: Samples that were left out.
        groups: Which, for every query.
        actual: How each query really changed without its own, float64 (queries,): the more, the better the score.
        predicted: What the scores predicted, float64 (queries,).
        random: Mean change without random samples, as many, float64 (queries,).
    """

    query_names: tuple[str, ...]
    size: int
    groups: tuple[tuple[int, ...], ...]
    actual: Tensor
    predicted: Tensor
    random: Tensor

    def to_frame(self) -> pd.DataFrame:
        """One row a query."""
        columns = {"actual": self.actual, "predicted": self.predicted, "random": self.random}
        return pd.DataFrame(columns, index=pd.Index(self.query_names, name="query"))

    def __str__(self) -> str:
        return (
            f"Without the {self.size:,} samples that help it most a query rises by {self.actual.mean():+.3g} (mean of "
            f"{len(self.actual):,}; predicted {self.predicted.mean():+.3g}), without random ones by "
            f"{self.random.mean():+.3g}."
        )


def brittleness(
    run: Recording,
    scores: Matrix,
    queries: Query | Sequence[Query] | None = None,
    *,
    share: float = 0.01,
    random: int = 3,
    seed: int = 0,
    rows: Rows | None = None,
    effect_of: EffectOf = "removal",
    removal: Removal | None = None,
    executor: ExecutorOption = None,
    workers: int | None = None,
) -> Brittleness:
    """Really leave out the samples that help a query most, for every query, and measure what it loses.

    Args:
        run: The completed run.
        scores: `hg.Scores`, or a matrix of any library about all samples of the run.
        queries: The queries, in the order of the matrix; those of the scores if None.
        share: Of the samples; at least one is left out.
        random: Random groups of that size, to compare with.
        seed: Of these.
        rows: What the rows of a matrix are, where its shape does not say it.
        effect_of: What a number of a matrix says, as for `hg.evaluate`.
        removal: What leaving samples out means, as for `hg.counterfactual`; None is what the scores predict, and of a
            matrix "weight".
        executor, workers: Where they train, as `hg.counterfactual` takes it.

    Raises:
        QueryError: A share that is none; no queries; scores that do not fit.

    Cost: one training a query and a random group; they are saved in RUN/retrained.

    Source: Park et al. 2023, TRAK, section 4 (brittleness); Ilyas et al. 2022, Datamodels.
    """
    if not 0 < share < 1 or random < 1:
        raise QueryError(f"share must be between 0 and 1 and random at least 1, got {share} and {random}.")
    queries = scores.queries if queries is None and isinstance(scores, Scores) else queries
    if queries is None:
        raise QueryError("A matrix, and scores loaded from a file, do not hold their queries. Pass them: queries=.")
    listed = queries_of(queries)
    names = numbered(name for query in listed for name in query.names())
    length = run.manifest.data["length"]
    ids = torch.arange(length)
    own = {} if isinstance(scores, Scores) else {"rows": rows, "effect_of": effect_of}
    needed = torch.ones(length, dtype=torch.bool)
    values, found = placed(scores, query_names=names, sample_ids=ids, needed=needed, **own)  # type: ignore[arg-type]
    if len(found) < len(names):
        raise QueryError(f"The scores are about {len(found)} of the {len(names)} queries. Pass those that they cover.")
    size = max(1, round(share * length))
    contributions = torch.from_numpy(values)
    best = contributions.argsort(dim=1, descending=True, stable=True)[:, :size]
    generator = torch.Generator().manual_seed(seed)
    others = [torch.randperm(length, generator=generator)[:size] for _ in range(random)]
    if removal is None:
        removal = scores.evidence.method.removal if isinstance(scores, Scores) else "weight"
    groups = [group.tolist() for group in [*best, *others]]
    changes = counterfactual(run, groups, listed, removal=removal, executor=executor, workers=workers).values
    return Brittleness(
        query_names=names,
        size=size,
        groups=tuple(tuple(group.tolist()) for group in best),
        actual=changes[:, : len(names)].diagonal().clone(),
        predicted=contributions.gather(1, best).sum(1),
        random=changes[:, len(names) :].mean(1),
    )

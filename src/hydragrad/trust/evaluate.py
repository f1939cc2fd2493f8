"""`evaluate`: contributions, of this library or another one, held against the retrainings of a bank."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.errors import QueryError
from hydragrad.figures import agreement
from hydragrad.ranks import rank_correlation
from hydragrad.scores import Scores
from hydragrad.scores.checks import Interval
from hydragrad.trust.evaluation import Ceiling, CeilingKind, Evaluation
from hydragrad.trust.fit import defined, mean, median, scale_of
from hydragrad.trust.lds import lds, lds_interval
from hydragrad.trust.matrices import EffectOf, Matrix, Rows, placed
from hydragrad.trust.retrainings import Bank

Array = NDArray[np.float64]

FEWEST = 3
"""Groups from which a correlation over them means anything."""
RUN = "run"
"""Entry of `Scores.about`: digest of the run that was attributed."""
SAME = 1e-4
"""Relative difference of a query's values from which two queries of one name are different ones."""


def evaluate(
    scores: Matrix,
    bank: Bank | str | Path,
    *,
    rows: Rows | None = None,
    sample_ids: Sequence[int] | Tensor | None = None,
    effect_of: EffectOf = "removal",
    seed: int | None = None,
) -> Evaluation:
    """Measure how well contributions predict the retrainings of a bank.

    The predicted change of a query is the sum of the contributions of what was left out, times how much of it was.

    Args:
        scores: `hg.Scores`, whose queries and samples are matched by name and id. Or a matrix of any library, of torch
            or NumPy, of shape (queries, samples) or (samples, queries), its queries in the order of the bank.
        bank: The bank, or its file.
        rows: What the rows of a matrix are, where its shape does not say it.
        sample_ids: Which training samples a matrix is about; those of the bank, in their order, if None.
        effect_of: What a number of a matrix says: what the query rises by without the sample (`removal`: ours; TracIn
            and influence functions of a loss where positive helps), or with it (`presence`: datamodels, and
            TRAK where the query is its margin).
        seed: Which of the bank's runs, counted from 0, a matrix was computed from.

    Returns:
        LDS with its interval and its ceilings, slope and scale, LDS of single seeds, correlations over single removals.

    Raises:
        QueryError: Queries or samples that do not fit; a matrix that may be read in two ways; too few retrainings.
        RunNotFound, RecordingMismatch, RunDamaged: As `hg.Bank.open`.

    Source: Park et al. 2023, TRAK (LDS); Koh and Liang 2017 (leaving one out).
    """
    truth = bank if isinstance(bank, Bank) else Bank.open(bank)
    values, queries = placed(
        scores,
        query_names=truth.query_names,
        sample_ids=truth.sample_ids,
        needed=truth.left_out.any(0),
        rows=rows,
        own_ids=sample_ids,
        effect_of=effect_of,
    )
    seed = _seed_of(scores, truth, queries, seed)
    sizes = truth.left_out.sum(1)
    single = sizes == 1
    some = ~single if int((~single).sum()) >= FEWEST else single
    if int(some.sum()) < FEWEST:
        raise QueryError(f"A bank needs at least {FEWEST} retrainings to compare with, got {int(some.sum())}.")
    predicted = values @ truth.removed.numpy().T
    changes = truth.changes(truth.values)[queries].numpy()
    actual = changes.mean(1)
    groups = some.numpy()
    fits = [agreement(p, a) for p, a in zip(predicted[:, groups], actual[:, groups], strict=True)]
    scales = [scale_of(p, a) for p, a in zip(predicted[:, groups], actual[:, groups], strict=True)]
    if truth.untouched is None:
        scales = [float("nan")] * len(scales)
    by_seed = [lds(predicted[:, groups], changes[:, number][:, groups]) for number in range(truth.seeds)]
    others = [value for number, value in enumerate(by_seed) if number != seed]
    return Evaluation(
        query_names=tuple(truth.query_names[query] for query in queries),
        predicted=torch.from_numpy(predicted[:, groups]),
        actual=torch.from_numpy(actual[:, groups]),
        groups=int(some.sum()),
        sizes=(int(sizes[some].min()), int(sizes[some].max())),
        lds=defined(lds(predicted[:, groups], actual[:, groups])),
        lds_interval=_interval(predicted[:, groups], actual[:, groups]),
        lds_per_query=_each(rank_correlation(predicted[:, groups], actual[:, groups])),
        slope=defined(median([fit.slope for fit in fits])),
        slope_per_query=_each([fit.slope for fit in fits]),
        scale=defined(median(scales)),
        scale_per_query=_each(scales),
        pearson_per_query=_each([fit.pearson for fit in fits]),
        ceilings=tuple(_ceilings(truth, queries, some)),
        seed=seed,
        lds_by_seed=_each(by_seed),
        remarks=tuple(_remarks(scores, truth)),
        cross_seed_lds=defined(mean(others)) if seed is not None and others else None,
        **_over_singles(predicted[:, single.numpy()], actual[:, single.numpy()]),
    )


def _seed_of(scores: Matrix, bank: Bank, queries: Sequence[int], seed: int | None) -> int | None:
    """Which of the bank's runs the scores come from, where the scores or the caller say it.

    Raises:
        QueryError: There is no such run; or queries of the same name that are about something else.
    """
    if seed is not None and not 0 <= seed < bank.seeds:
        raise QueryError(f"The bank has the seeds 0 to {bank.seeds - 1}, got seed={seed}.")
    if not isinstance(scores, Scores):
        return seed
    run = scores.about.get(RUN)
    if seed is None and run in bank.runs:
        seed = bank.runs.index(run)
    if seed is not None and run in bank.runs and bank.untouched is not None and scores.evidence.seeds == 1:
        for query in queries:
            name, known = bank.query_names[query], float(bank.untouched[query, seed])
            value = float(scores.query_values[scores.query_names.index(name)])
            if abs(value - known) > SAME * max(abs(value), abs(known)):
                raise QueryError(
                    f"The query {name!r} of the bank is {known:.6g} for this run, that of the scores {value:.6g}: the "
                    f"same name for other data. Score the queries that the bank was made with."
                )
    return seed


def _remarks(scores: Matrix, bank: Bank) -> Iterator[str]:
    """What scores and bank do not have in common."""
    known = bank.settings.get("removal", "weight")
    if isinstance(scores, Scores) and not scores.evidence.from_checkpoints:
        predicted = scores.evidence.method.removal
        if predicted != known:
            yield f"The scores predict removals of the kind {predicted!r}; those of the bank are {known!r}."
    if len(set(bank.weights.tolist())) > 1:
        yield "The retrainings of the bank left their groups different weights: larger changes rank first by size."
    elif len(set(bank.left_out.sum(1).tolist()) - {1}) > 1:
        yield "The groups of the bank have different sizes, so that a part of the LDS is due to their size."


def _ceilings(bank: Bank, queries: Sequence[int], some: Tensor) -> Iterator[Ceiling]:
    changes = bank.changes(bank.values)[queries]
    if bank.repeats is not None:
        yield from _ceiling("rounding", bank.changes(bank.repeats)[queries].mean(1), changes.mean(1), some)
    if bank.seeds > 1:
        yield from _ceiling("seeds", changes[:, ::2].mean(1), changes[:, 1::2].mean(1), some)
    if bank.halves is not None:
        yield from _ceiling("halves", bank.changes(bank.halves)[queries].sum(-1).mean(1), changes.mean(1), some)


def _ceiling(kind: CeilingKind, predicted: Tensor, actual: Tensor, some: Tensor) -> Iterator[Ceiling]:
    """One ceiling over the subsets that have it; none where these are too few."""
    there = some & predicted.isfinite().all(0)
    count = int(there.sum())
    if count < FEWEST:
        return
    one, other = predicted[:, there].numpy(), actual[:, there].numpy()
    yield Ceiling(kind=kind, lds=defined(lds(one, other)), interval=_interval(one, other), groups=count)


def _over_singles(predicted: Array, actual: Array) -> dict[str, Any]:
    count = predicted.shape[1]
    if count < FEWEST:
        return {}
    fits = [agreement(p, a) for p, a in zip(predicted, actual, strict=True)]
    pearson, spearman = [fit.pearson for fit in fits], [fit.spearman for fit in fits]
    return {
        "singles": count,
        "loo_pearson": defined(mean(pearson)),
        "loo_spearman": defined(mean(spearman)),
        "loo_pearson_per_query": _each(pearson),
        "loo_spearman_per_query": _each(spearman),
    }


def _interval(predicted: Array, actual: Array) -> Interval:
    low, high = lds_interval(predicted, actual)
    return defined(low), defined(high)


def _each(values: Sequence[float] | Array) -> tuple[float | None, ...]:
    return tuple(defined(float(value)) for value in values)

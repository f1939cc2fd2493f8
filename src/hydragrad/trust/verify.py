"""Predicted against actual: how well scores predict what really happens when groups of samples are left out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.errors import DataError, QueryError, Unfinished
from hydragrad.execution import Execution, ExecutorOption, PartOption, execution_of
from hydragrad.figures import agreement
from hydragrad.ranks import rank_correlation
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change, one_rounding
from hydragrad.replay.retraining import retrain
from hydragrad.scores import Check, Evidence, Method, Query, Removal, Scores, numbered, queries_of
from hydragrad.scores.checks import CheckKind, Interval
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import require_recorded, require_scores_about
from hydragrad.trust.counterfactual import counterfactual, measure
from hydragrad.trust.fit import defined, median, scale_of
from hydragrad.trust.lds import lds, lds_interval

Array = NDArray[np.float64]
Size = int | float

CONFIDENCE = 0.9
SHOWN_QUERIES = 3
"""Queries whose changes are in checks of their own, at most."""


@dataclass(frozen=True, kw_only=True)
class _Groups:
    """Groups of one kind and size, and their samples."""

    name: str
    kind: CheckKind
    size: int | None
    samples: list[list[int]]


@in_clean_surroundings
def verify(
    run: Recording | Sequence[Recording],
    scores: Scores,
    *,
    groups: int | Sequence[Sequence[int]] = 20,
    size: Size | Sequence[Size] = 0.1,
    seed: int = 0,
    extremes: bool = True,
    queries: Query | Sequence[Query] | None = None,
    executor: ExecutorOption = None,
    workers: int | None = None,
    part: PartOption = None,
    ceiling: bool = False,
    removal: Removal | None = None,
) -> Evidence:
    """Really retrain without groups of samples and compare with what the scores predicted.

    Args:
        run: The completed run that the scores were computed from. Of an ensemble its runs: what happened is then the
            mean over them.
        scores: The scores to verify.
        groups: How many random groups of every size, or the groups themselves.
        size: Samples of a group: a number, or a share of the scored samples as a float below 1; several sizes are
            checked one by one. Without meaning where `groups` are the groups themselves.
        seed: Of the random groups.
        extremes: Also the most harmful and the most helpful group of every size and query.
        queries: The queries of the scores, in their order; needed for scores that were loaded from a file.
        executor, workers, part: As `counterfactual` takes them.
        ceiling: Also retrain without the same groups from initial weights changed by one rounding: how far such a
            repeat predicts what happened is what any score of this run can be expected to reach.
        removal: What leaving a group out means, as for `counterfactual`; None is what the scores predict.

    Returns:
        The scores' evidence with one `Check` a size, kind and query (at most three queries): predicted and actual
        changes, `lds` (Spearman over groups, mean over queries) with its interval, `scale` (what to multiply
        predictions by), other measures, and a `sentence`. `scores.with_evidence(evidence)` is the copy of the scores
        that carries it.

    Raises:
        QueryError: Scores of another run or without their queries; ids out of range; an interrupted run.
        DataError: Groups as large as the data.
        Unfinished: `part`, and retrainings of other slices are missing.

    Cost: one training a group and run (two with `ceiling`); retrainings are saved in RUN/retrained and not made twice.

    Source: Park et al. 2023 (LDS); Bae et al. 2024 and Ilyas and Engstrom 2025 (a fixed trajectory).
    """
    require_recorded(run, "verify")
    listed = _queries(scores, queries)
    runs = [run] if isinstance(run, Recording) else list(run)
    if not runs:
        raise QueryError("verify needs the run that the scores come from, or all runs of an ensemble, got none.")
    removal = Method(removal=removal or scores.evidence.method.removal).removal
    if len(runs) == 1:
        require_scores_about(runs[0], scores)
    plan = _plan(runs[0], scores, groups, size, seed, extremes)
    everything = [group for some in plan for group in some.samples]
    execution = execution_of(executor, workers, part)
    changes, repeats = _retrained(runs, everything, listed, removal, execution, ceiling=ceiling)
    actual = torch.stack(changes).mean(0).numpy()
    predicted = torch.stack([scores.total(group) for group in everything], 1).numpy()
    again = torch.stack(repeats).mean(0).numpy() if ceiling else None
    checks: list[Check] = []
    start = 0
    for some in plan:
        columns = slice(start, start + len(some.samples))
        start = columns.stop
        repeat = None if again is None else again[:, columns]
        checks += [
            replace(check, removal=removal)
            for check in _checks(some, predicted[:, columns], actual[:, columns], repeat, scores, seed)
        ]
    return scores.evidence.with_checks(checks)


def _retrained(
    runs: Sequence[Recording],
    groups: Sequence[Sequence[int]],
    queries: Sequence[Query],
    removal: Removal,
    execution: Execution,
    *,
    ceiling: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """What leaving out does in every run, and, for the ceiling, in its repeat; each (queries, groups).

    Raises:
        Unfinished: A slice, after its share of every run.
    """
    results: tuple[list[Tensor], list[Tensor]] = [], []
    missing: Unfinished | None = None
    for one in runs:
        try:
            results[0].append(counterfactual(one, groups, queries, removal=removal, **execution.keywords).values)
        except Unfinished as error:
            missing = error
        try:
            results[1].extend([_repeated(one, groups, queries, removal, execution)] if ceiling else [])
        except Unfinished as error:
            missing = error
    if missing is not None:
        raise missing
    return results


def _repeated(
    run: Recording,
    groups: Sequence[Sequence[int]],
    queries: Sequence[Query],
    removal: Removal,
    execution: Execution,
) -> Tensor:
    """How the same retrainings change the queries from initial weights changed by one rounding, (queries, groups)."""
    rounding = one_rounding(run)
    renormalised = removal == "renormalised"
    changes = [Change(weights=dict.fromkeys(group, 0.0), noise=rounding, renormalised=renormalised) for group in groups]
    return measure(run, retrain(run, changes, execution=execution, keep=True), queries)[1]


def _checks(
    part: _Groups, predicted: Array, actual: Array, repeat: Array | None, scores: Scores, seed: int
) -> list[Check]:
    """A check for each of the first queries, with measures over all of them."""
    agreements = [agreement(p, a) for p, a in zip(predicted, actual, strict=True)]
    check = Check(
        kind=part.kind,
        curvature=None if scores.evidence.from_checkpoints else scores.evidence.curvature,
        size=part.size,
        group_sizes=None if part.size is not None else tuple(map(len, part.samples)),
        groups=len(part.samples),
        queries=len(predicted),
        slope=defined(median([one.slope for one in agreements])),
        scale=defined(median([scale_of(p, a) for p, a in zip(predicted, actual, strict=True)])),
        pearson=defined(median([one.pearson for one in agreements])),
        spearman=defined(median([one.spearman for one in agreements])),
        lds=defined(lds(predicted, actual)),
        lds_interval=_interval(predicted, actual, seed),
        lds_per_query=tuple(defined(float(value)) for value in rank_correlation(predicted, actual)),
        sign_agreement=float((np.sign(predicted) == np.sign(actual)).mean()),
        ceiling_lds=None if repeat is None else defined(lds(repeat, actual)),
        ceiling_interval=None if repeat is None else _interval(repeat, actual, seed),
    )
    return [
        replace(
            check,
            name=part.name + (f", {name}" if len(predicted) > 1 else ""),
            unit=name,
            predicted=tuple(predicted[row].tolist()),
            actual=tuple(actual[row].tolist()),
        )
        for row, name in enumerate(scores.query_names[:SHOWN_QUERIES])
    ]


def _interval(predicted: Array, actual: Array, seed: int) -> Interval:
    low, high = lds_interval(predicted, actual, seed=seed, confidence=CONFIDENCE)
    return defined(low), defined(high)


def _plan(
    run: Recording,
    scores: Scores,
    groups: int | Sequence[Sequence[int]],
    size: Size | Sequence[Size],
    seed: int,
    extremes: bool,
) -> list[_Groups]:
    if not isinstance(groups, int):
        samples = [list(dict.fromkeys(int(i) for i in group)) for group in groups]  # a sample is left out once
        return [_Groups(name="given groups", kind="given", size=None, samples=samples)]
    ids = scores.sample_ids
    if groups < 1:
        raise QueryError(f"groups must be at least 1, got {groups}.")
    generator = torch.Generator().manual_seed(seed)
    plan = []
    for some in [size] if isinstance(size, int | float) else size:
        count = _count(some, len(ids), run.manifest.data["length"])
        random = [ids[torch.randperm(len(ids), generator=generator)[:count]].tolist() for _ in range(groups)]
        name = f"{count:,} sample{'s' if count > 1 else ''} left out"
        plan.append(_Groups(name=f"{name}, random groups", kind="random", size=count, samples=random))
        if extremes:
            rows = range(min(SHOWN_QUERIES, len(scores.query_names)))
            ends = [end(count, row) for row in rows for end in (scores.most_harmful, scores.most_helpful)]
            plan.append(_Groups(name=f"{name}, most harmful and helpful", kind="extremes", size=count, samples=ends))
    return plan


def _count(size: Size, scored: int, length: int) -> int:
    if not (size >= 1 if isinstance(size, int) else 0 < size < 1):
        raise QueryError(f"A group has at least one sample, or a share between 0 and 1, got {size}.")
    count = size if isinstance(size, int) else max(1, round(size * scored))
    if count > scored or count >= length:
        raise DataError(f"Groups of {count:,} are too large: {scored:,} of {length:,} samples have scores.")
    return count


def _queries(scores: Scores, queries: Query | Sequence[Query] | None) -> list[Query]:
    if queries is None:
        queries = scores.queries
    if queries is None:
        raise QueryError(
            "Scores loaded from a file do not hold their queries. Pass those they were computed for: "
            "queries=hg.mean_loss(...)."
        )
    listed = queries_of(queries)
    names = numbered(name for query in listed for name in query.names())
    if names != scores.query_names:
        raise QueryError(
            f"The scores are about the queries {', '.join(scores.query_names[:5])}, got {', '.join(names[:5])}. Pass "
            f"the queries that they were computed for."
        )
    return listed

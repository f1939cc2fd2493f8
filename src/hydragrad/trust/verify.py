"""Predicted against actual: how well scores foretell what really happens when groups of samples are left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hydragrad.errors import DataError, QueryError
from hydragrad.figures import agreement
from hydragrad.ranks import rank_correlation
from hydragrad.replay import Recording
from hydragrad.replay.retraining import Change, retrain
from hydragrad.scores import Evidence, Query, Scores, numbered, queries_of
from hydragrad.trust.counterfactual import counterfactual, measure
from hydragrad.trust.lds import lds, lds_interval

Array = NDArray[np.float64]
Size = int | float

CONFIDENCE = 0.9
SHOWN_QUERIES = 3
MORE = "; more groups would tell better"
"""Said of an interval that reaches from no ranking at all to a fair one."""


@dataclass(frozen=True, kw_only=True)
class _Groups:
    """Groups of one kind: what they are, and their samples."""

    name: str
    size: int | None
    random: bool
    groups: list[list[int]]


def verify(
    run: Recording | Sequence[Recording],
    scores: Scores,
    *,
    groups: int | Sequence[Sequence[int]] = 20,
    size: Size | Sequence[Size] = 0.1,
    seed: int = 0,
    extremes: bool = True,
    queries: Query | Sequence[Query] | None = None,
    workers: int = 1,
    ceiling: bool = False,
) -> Evidence:
    """Really retrain without groups of samples and compare with what the scores predicted.

    Args:
        run: The completed run that the scores were computed from. Of an ensemble its runs: what happened is then the
            mean over them.
        scores: What is to be verified.
        groups: How many random groups of every size, or the groups themselves.
        size: Samples of a group: a number, or a share of the scored samples as a float below 1; several sizes are
            checked one by one. Without meaning where `groups` are given.
        seed: Of the random groups.
        extremes: Also the most harmful and the most helpful group of every size and query.
        queries: What the scores answer, in their order; needed for scores that were loaded from a file.
        workers: Processes that retrain at the same time.
        ceiling: Also retrain without the same groups from initial weights changed by one rounding: how far such a
            repeat foretells what happened is what any score of this run can be expected to reach.

    Returns:
        The scores' evidence with one check a size and kind: predicted and actual changes (of single queries, at most
        three), `slope` (of actual on predicted, with an offset), `scale` (the same through the origin: what to
        multiply predictions by; 1 where they have the right size), `pearson`, `spearman`, `lds` (Spearman over groups,
        mean over queries) with its 90 % bootstrap interval over groups, `lds_per_query`, `sign_agreement`, with
        `ceiling` the LDS of the repeat (`ceiling_lds`, `ceiling_interval`), and a sentence.
        `scores.with_evidence(evidence)` is the copy that carries it.

    Raises:
        QueryError: Scores of another run or without their queries; ids out of range; an interrupted run.
        DataError: Groups as large as the data.

    Cost: one training a group and run (two with `ceiling`); retrainings are kept in RUN/retrained and not made twice.

    Source: Park et al. 2023 (LDS); Bae et al. 2024 and Ilyas and Engstrom 2025 (a fixed trajectory).
    """
    asked = _queries(scores, queries)
    runs = [run] if isinstance(run, Recording) else list(run)
    if not runs:
        raise QueryError("verify needs the run that the scores come from, or all runs of an ensemble; none came.")
    plan = _plan(runs[0], scores, groups, size, seed, extremes)
    everything = [group for kind in plan for group in kind.groups]
    found = [counterfactual(each, everything, asked, workers=workers).values for each in runs]
    actual = torch.stack(found).mean(0).numpy()
    predicted = torch.stack([scores.total(group) for group in everything], 1).numpy()
    again = np.mean([_repeated(each, everything, asked, workers) for each in runs], axis=0) if ceiling else None
    checks: list[dict[str, Any]] = []
    at = 0
    for kind in plan:
        columns = slice(at, at + len(kind.groups))
        at = columns.stop
        repeat = None if again is None else again[:, columns]
        checks += _checks(kind, predicted[:, columns], actual[:, columns], repeat, scores, seed)
    kept = [check for check in scores.evidence.checks if check.get("name") not in {new["name"] for new in checks}]
    return replace(scores.evidence, checks=(*kept, *checks))


def _repeated(run: Recording, groups: Sequence[Sequence[int]], asked: Sequence[Query], workers: int) -> Array:
    """How the same retrainings change the queries from initial weights changed by one rounding, (queries, groups)."""
    rounding = torch.finfo(next(iter(run.initial.parameters.values())).dtype).eps
    changes = [Change(weights=dict.fromkeys(group, 0.0), noise=rounding) for group in groups]
    found: Array = measure(run, retrain(run, changes, workers=workers, keep=True), asked)[1].numpy()
    return found


def _checks(
    kind: _Groups, predicted: Array, actual: Array, repeat: Array | None, scores: Scores, seed: int
) -> list[dict[str, Any]]:
    each = rank_correlation(predicted, actual)
    low, high = lds_interval(predicted, actual, seed=seed, confidence=CONFIDENCE)
    agreed = [agreement(p, a) for p, a in zip(predicted, actual, strict=True)]
    slope = _median([one.slope for one in agreed])
    measured: dict[str, Any] = {
        "curvature": scores.evidence.curvature,
        "size": kind.size,
        "random": kind.random,
        "groups": len(kind.groups),
        "queries": len(predicted),
        "slope": _plain(slope),
        "scale": _plain(_median([_scale_of(p, a) for p, a in zip(predicted, actual, strict=True)])),
        "pearson": _plain(_median([one.pearson for one in agreed])),
        "spearman": _plain(_median([one.spearman for one in agreed])),
        "lds": _plain(lds(predicted, actual)),
        "lds_interval": [_plain(low), _plain(high)],
        "lds_per_query": [_plain(float(value)) for value in each],
        "sign_agreement": float((np.sign(predicted) == np.sign(actual)).mean()),
    }
    if repeat is not None:
        ends = lds_interval(repeat, actual, seed=seed, confidence=CONFIDENCE)
        measured |= {"ceiling_lds": _plain(lds(repeat, actual)), "ceiling_interval": [_plain(end) for end in ends]}
    measured["sentence"] = sentence(measured)
    shown = scores.query_names[:SHOWN_QUERIES]
    return [
        measured
        | {
            "name": kind.name + (f", {name}" if len(predicted) > 1 else ""),
            "unit": name,
            "predicted": predicted[row].tolist(),
            "actual": actual[row].tolist(),
        }
        for row, name in enumerate(shown)
    ]


def sentence(check: dict[str, Any]) -> str:
    """What a check means, in one plain sentence."""
    value, (low, high), scale = check["lds"], check["lds_interval"], check["scale"]
    if value is None:
        return f"{check['groups']} groups are too few, or too alike, to tell how well predictions rank removals."
    grade = "well" if value >= 0.8 else "fairly" if value >= 0.5 else "weakly" if value >= 0.2 else "not"
    interval = ""
    if low is not None and high is not None:
        interval = f" [{_short(low)}, {_short(high)}]" + (MORE if low <= 0.0 and high >= 0.5 else "")
    ranks = f"Predicted changes {'do not rank' if grade == 'not' else 'rank'} removals"
    ranks += ("" if grade == "not" else f" {grade}") + f" (LDS {_short(value)}{interval})"
    return f"{ranks} and {_size(scale)}.{_ceiling(check.get('ceiling_lds'))}"


def _ceiling(value: float | None) -> str:
    if value is None:
        return ""
    return (
        f" A repeat of the same run, one rounding apart, ranks these removals with LDS {_short(value)}: more can't be "
        f"expected of any score."
    )


def _scale_of(predicted: Array, actual: Array) -> float:
    """Least-squares factor from predicted to actual changes: no removal, no change."""
    return float(predicted @ actual / (predicted @ predicted)) if predicted.any() else math.nan


def _size(scale: float | None) -> str:
    if scale is None or scale <= 0:
        return "say nothing of their size"
    off = 1 - 1 / scale if scale > 1 else 1 / scale - 1
    if off < 0.05:
        return "have the right size"
    side = "small" if scale > 1 else "large"
    ratio = max(scale, 1 / scale)
    return f"are {off:.0%} too {side}".replace("%", " %") if ratio < 2 else f"are {ratio:.3g} times too {side}"


def _plan(
    run: Recording,
    scores: Scores,
    groups: int | Sequence[Sequence[int]],
    size: Size | Sequence[Size],
    seed: int,
    extremes: bool,
) -> list[_Groups]:
    if not isinstance(groups, int):
        given = [[int(i) for i in group] for group in groups]
        return [_Groups(name="given groups", size=None, random=False, groups=given)]
    ids = scores.sample_ids
    if groups < 1:
        raise QueryError(f"groups must be at least 1, not {groups}.")
    generator = torch.Generator().manual_seed(seed)
    plan = []
    for each in [size] if isinstance(size, int | float) else size:
        count = _count(each, len(ids), run.manifest.data["length"])
        draws = [ids[torch.randperm(len(ids), generator=generator)[:count]].tolist() for _ in range(groups)]
        name = f"{count:,} sample{'s' if count > 1 else ''} left out"
        plan.append(_Groups(name=f"{name}, random groups", size=count, random=True, groups=draws))
        if extremes:
            rows = range(min(SHOWN_QUERIES, len(scores.query_names)))
            ends = [end(count, row) for row in rows for end in (scores.most_harmful, scores.most_helpful)]
            plan.append(_Groups(name=f"{name}, most harmful and helpful", size=count, random=False, groups=ends))
    return plan


def _count(size: Size, scored: int, length: int) -> int:
    count = size if isinstance(size, int) else max(1, round(size * scored))
    if count < 1 or (isinstance(size, float) and not 0 < size < 1):
        raise QueryError(f"A group has at least one sample, or a share between 0 and 1; {size} came.")
    if count > scored or count >= length:
        raise DataError(f"Groups of {count:,} are too large: {scored:,} of {length:,} samples have scores.")
    return count


def _queries(scores: Scores, given: Query | Sequence[Query] | None) -> list[Query]:
    if given is None and scores.queries is None:
        raise QueryError(
            "Scores loaded from a file do not hold their queries. Say what they answer: queries=hg.mean_loss(...)."
        )
    chosen = scores.queries if given is None else given
    asked = queries_of(chosen or ())
    names = numbered(name for each in asked for name in each.names())
    if names != scores.query_names:
        raise QueryError(
            f"The scores answer {', '.join(scores.query_names[:5])}; the queries given are {', '.join(names[:5])}."
        )
    return asked


def _median(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return float(np.median(finite)) if finite else math.nan


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _short(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1).replace("-", "−")  # + 0.0: no minus before zero

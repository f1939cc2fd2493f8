"""How suspect training labels are, by several methods that all get the same run and the same held-out data."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hydragrad.attribution.influence import influence_functions
from hydragrad.cleaning import Labels, area_under_roc, found_in_first, suspects
from hydragrad.scores import Curvature, Query
from studies.baselines import confident_learning, tracin
from studies.noisy_run import NoisyRun

DAMPING, ITERATIONS, MATRIX = 0.01, 50, 5000
"""Of influence functions: damping (`python -m studies damping` searches it), conjugate gradient steps, samples that the
Gauss-Newton matrix is averaged over."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A method's verdict on the training labels.

    Attributes:
        suspicion: Higher is more suspect, float64 (samples,).
        suspects: Which labels it considers wrong, not knowing how many are, bool (samples,); None if it has no opinion.
        suggested: Labels in their place, int64 (samples,); None if it suggests none.
    """

    suspicion: Tensor
    suspects: Tensor | None = None
    suggested: Tensor | None = None


def _contributions(case: NoisyRun, held_out: str, curvature: Curvature) -> Ranking:
    scores = case.scores(held_out, curvature)
    suggested = scores.suggested_labels()
    return Ranking(
        suspicion=-scores.row(),
        suspects=(scores.row() < 0) & (suggested != case.labels.given),
        suggested=suggested,
    )


def _predicted(suspicion: Tensor, probabilities: Tensor, given: Tensor) -> Ranking:
    suggested = probabilities.argmax(1)
    return Ranking(suspicion=suspicion, suspects=suggested != given, suggested=suggested)


def _small_loss(case: NoisyRun) -> Ranking:
    signals, given = case.signals, case.labels.given
    return _predicted(-signals.at_end.gather(1, given[:, None])[:, 0].log(), signals.at_end, given)


def _margin(case: NoisyRun) -> Ranking:
    return _predicted(-case.signals.margin, case.signals.over_training, case.labels.given)


def _self_confidence(case: NoisyRun) -> Ranking:
    out, given = case.signals.out_of_fold, case.labels.given
    assert out is not None
    return _predicted(-out.gather(1, given[:, None])[:, 0], out, given)


def _confident_learning(case: NoisyRun) -> Ranking:
    out, given = case.signals.out_of_fold, case.labels.given
    assert out is not None
    verdict = confident_learning(given, out)
    is_suspect = torch.zeros(len(given), dtype=torch.bool)
    is_suspect[verdict.suspects] = True
    return Ranking(suspicion=verdict.suspicion, suspects=is_suspect, suggested=out.argmax(1))


def _default(case: NoisyRun, held_out: str) -> Ranking:
    frame = suspects(case.run, case.scores(held_out, "none"), held_out=case.query(held_out)).sort_values("sample")
    return Ranking(
        suspicion=torch.from_numpy(frame["suspicion"].to_numpy(copy=True)),
        suspects=torch.from_numpy((frame["suggested_label"] != frame["given_label"]).to_numpy(copy=True)),
        suggested=torch.from_numpy(frame["suggested_label"].to_numpy(copy=True)),
    )


def influence_ranking(case: NoisyRun, query: Query, damping: float) -> Ranking:
    """Rank by influence functions at the final weights."""
    contributions = influence_functions(case.run, query, damping=damping, iterations=ITERATIONS, matrix_samples=MATRIX)[
        0
    ]
    return Ranking(suspicion=-contributions, suspects=contributions < 0)


def _tracin(case: NoisyRun) -> Ranking:
    contributions = tracin(case.run, case.query("validation"))[0]
    return Ranking(suspicion=-contributions, suspects=contributions < 0)


METHODS: dict[str, Callable[[NoisyRun], Ranking]] = {
    "hydragrad": lambda case: _default(case, "validation"),
    "HYDRA": lambda case: _contributions(case, "validation", "none"),
    "HYDRA (test set)": lambda case: _contributions(case, "test", "none"),
    "confident learning": _confident_learning,
    "small loss": _small_loss,
    "influence functions": lambda case: influence_ranking(case, case.query("validation"), DAMPING),
    "TracIn": _tracin,
    "margin over training": _margin,
    "self-confidence": _self_confidence,
    "ggn": lambda case: _contributions(case, "validation", "ggn"),
    "hessian": lambda case: _contributions(case, "validation", "hessian"),
    "HYDRA (failures)": lambda case: _contributions(case, "failures", "none"),
    "ggn (failures)": lambda case: _contributions(case, "failures", "ggn"),
    "hydragrad (failures)": lambda case: _default(case, "failures"),
}
"""Failures are the validation samples that the trained network gets wrong: a query that a user would choose."""


def quality(ranking: Ranking, labels: Labels) -> dict[str, float | None]:
    """Measure how well a ranking finds what is wrong."""
    frame = pd.DataFrame({"suspicion": ranking.suspicion, "flipped": labels.flipped})
    frame = frame.sort_values("suspicion", kind="stable", ascending=False)
    right = None if ranking.suggested is None else float((ranking.suggested == labels.true).double().mean())
    return {
        "auc": area_under_roc(frame),
        "found_10": found_in_first(frame, 0.1),
        "found_20": found_in_first(frame, 0.2),
        "suggested": right,
    }


def most_suspect(ranking: Ranking, count: int) -> list[int]:
    """Return the samples that rank first."""
    first: list[int] = ranking.suspicion.argsort(descending=True, stable=True)[:count].tolist()
    return first

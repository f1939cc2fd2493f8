"""What the demos end with: predicted and actual changes, for groups that are really left out."""

from collections.abc import Mapping, Sequence

import torch
from loky import cpu_count

from hydragrad.cli.console import table
from hydragrad.replay import Recording
from hydragrad.scores import Check, Query, Scores
from hydragrad.trust import counterfactual

WORKERS = 2
"""Processes that train without groups, if there are enough cores."""


def left_out(run: Recording, scores: Scores, query: Query, groups: Mapping[str, Sequence[int]]) -> Check:
    """Train without each group, and compare the change of the validation loss with what scores predict."""
    workers = max(1, min(WORKERS, cpu_count() // torch.get_num_threads()))
    samples = [list(group) for group in groups.values()]
    actual = counterfactual(run, samples, query, workers=workers)
    return Check(
        name=f"leaving groups out, predicted with curvature {scores.evidence.curvature}",
        curvature=scores.evidence.curvature,
        groups=len(groups),
        group_names=tuple(groups),
        group_sizes=tuple(map(len, samples)),
        predicted=tuple(float(scores.total(group)) for group in samples),
        actual=tuple(actual.values[0].tolist()),
        unit=scores.query_names[0],
    )


def show(check: Check, digits: int) -> None:
    """Print it, changes with so many digits."""
    rows = {
        f"without {name}": f"predicted {predicted:+.{digits}f}, actual {actual:+.{digits}f}"
        for name, predicted, actual in zip(check.group_names or (), check.predicted, check.actual, strict=True)
    }
    table("Are predictions right? Change of the validation loss after really training without", rows)


def figures_of(check: Check) -> dict[str, float]:
    """The changes by name, for the JSON."""
    predicted = {f"predicted_{n}": change for n, change in enumerate(check.predicted)}
    return predicted | {f"actual_{n}": change for n, change in enumerate(check.actual)}

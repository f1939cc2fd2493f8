"""What can be done about suspects: leave them out, give them other labels, or let them weigh less."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import torch

from hydragrad.cleaning.signals import Signals
from hydragrad.replay.changed_run import Change

LIKELY = 0.5
"""Probability over training from which a suggested label is taken."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One way of treating suspects.

    Attributes:
        name: What was done, in words.
        weights: Loss weight by sample, where it is not 1, before all are scaled to a mean of 1.
        labels: Label by sample, where it is another one.
    """

    name: str
    weights: Mapping[int, float] = field(default_factory=dict)
    labels: Mapping[int, int] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """How many samples are treated otherwise."""
        return len({*self.weights, *self.labels})

    def change(self, length: int) -> Change:
        """The run with it; weights have a mean of 1, so that steps keep their size."""
        total = sum(self.weights.values()) + length - len(self.weights)
        if not self.weights or total <= 0:
            return Change(weights=self.weights, labels=self.labels)
        scale = length / total
        return Change(weights={i: scale * self.weights.get(i, 1.0) for i in range(length)}, labels=self.labels)


def removed(worst: pd.DataFrame) -> Remedy:
    """Leave samples out."""
    return Remedy(name=f"{len(worst):,} suspects removed", weights=dict.fromkeys(worst["sample"].tolist(), 0.0))


def relabelled(worst: pd.DataFrame, signals: Signals | None) -> Remedy:
    """Give samples the label that is suggested where it is likely over training, and leave out the others.

    Args:
        worst: The samples, with `given_label` and `suggested_label`.
        signals: What training shows about all samples; None takes every suggestion.
    """
    samples, suggested = (torch.as_tensor(worst[name].to_numpy().copy()) for name in ("sample", "suggested_label"))
    other = suggested != torch.as_tensor(worst["given_label"].to_numpy().copy())
    if signals is None:
        likely = other
    else:
        likely = other & (signals.over_training[samples].gather(1, suggested[:, None])[:, 0] >= LIKELY)
    labels = dict(zip(samples[likely].tolist(), suggested[likely].tolist(), strict=True))
    weights = {} if signals is None else dict.fromkeys(samples[~likely].tolist(), 0.0)
    name = f"{len(labels):,} suspects relabelled" + (f", {len(weights):,} removed" if weights else "")
    return Remedy(name=name, weights=weights, labels=labels)


def down_weighted(worst: pd.DataFrame, signals: Signals) -> Remedy:
    """Let samples weigh what speaks for their label: its probability over training, against that of the likeliest."""
    samples = torch.as_tensor(worst["sample"].to_numpy().copy())
    probabilities = signals.over_training[samples]
    own = probabilities.gather(1, signals.given[samples][:, None])[:, 0]
    weights = own / (own + probabilities.max(1).values)
    name = f"{len(samples):,} suspects down-weighted"
    return Remedy(name=name, weights=dict(zip(samples.tolist(), weights.tolist(), strict=True)))

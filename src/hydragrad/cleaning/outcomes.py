"""Outcomes of treatments: trained models, compared on held-out data sample by sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hydragrad.cleaning.remedies import Remedy
from hydragrad.cleaning.signals import model_with
from hydragrad.replay import Recording
from hydragrad.replay.held_out import HeldOutBatches
from hydragrad.replay.retraining import State
from hydragrad.training.measuring import evaluated


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one treatment did.

    Attributes:
        remedy: The treatment; without changes for the run itself.
        loss: Mean loss on the held-out data.
        accuracy: Share of right predictions on them, or None where they show no labels.
        error: Standard error of the accuracy, or of the loss where there is none.
        gain: How much better it is than the run as given: in accuracy, or in loss.
        gain_error: Standard error of the gain, sample by sample: what other held-out data would change.
        loss_gain: By how much the loss is lower.
        loss_gain_error: Its standard error.
        state: Parameters and buffers of the trained model.
    """

    remedy: Remedy
    loss: float
    accuracy: float | None
    error: float
    gain: float
    gain_error: float
    loss_gain: float
    loss_gain_error: float
    state: State


@dataclass(frozen=True)
class Measured:
    """A trained model on held-out data.

    Attributes:
        losses: (samples,).
        right: Whether it predicts each label, (samples,); None where they show no labels.
    """

    losses: Tensor
    right: Tensor | None

    @property
    def quality(self) -> Tensor:
        """Sample by sample, higher is better."""
        return -self.losses if self.right is None else self.right.double()


def measured(run: Recording, state: Mapping[str, Tensor], data: Dataset[object]) -> Measured:
    """Losses of held-out samples, and whether the model is right on them."""
    model: nn.Module = model_with(run, state)
    batches, length = HeldOutBatches(run.model, run.loss, run.collate_fn, run.device), len(data)  # type: ignore[arg-type]
    losses, right = [], []
    for part in evaluated(model, run.loss, range(length), lambda some: batches(data, some), length=length):
        losses.append(part.losses.double().cpu())
        if part.output is not None and part.labels is not None:
            right.append((part.output.argmax(1) == part.labels).cpu())
    whole = torch.cat(right) if right else None
    every = torch.cat(losses)
    return Measured(every, whole if whole is not None and len(whole) == len(every) else None)


def outcomes_of(remedies: Sequence[Remedy], states: Sequence[State], measured: Sequence[Measured]) -> Iterator[Outcome]:
    """Outcomes of treatments, measured on the same data; the first is the run as given."""
    given = measured[0]
    for remedy, state, one in zip(remedies, states, measured, strict=True):
        gain, loss_gain = one.quality - given.quality, given.losses - one.losses
        yield Outcome(
            remedy=remedy,
            loss=float(one.losses.mean()),
            accuracy=None if one.right is None else float(one.right.double().mean()),
            error=_standard_error(one.quality),
            gain=float(gain.mean()),
            gain_error=_standard_error(gain),
            loss_gain=float(loss_gain.mean()),
            loss_gain_error=_standard_error(loss_gain),
            state=dict(state),
        )


def _standard_error(values: Tensor) -> float:
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("inf")


SURE = 2.0
"""Standard errors: the best of several treatments gains one by luck alone."""


def net_gain(outcome: Outcome, again: Outcome) -> float:
    """How much better an outcome is than the better one of the run as given and itself once more."""
    return outcome.gain - max(0.0, again.gain)


def surely_less_loss(outcome: Outcome, again: Outcome) -> bool:
    """Whether the loss is lower than both, by more than what other held-out data would change."""
    return outcome.loss_gain - max(0.0, again.loss_gain) > SURE * outcome.loss_gain_error


def frame_of(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row a treatment."""
    measures = ("accuracy", "loss", "error", "gain", "gain_error", "loss_gain", "loss_gain_error")
    rows = [
        {"treatment": one.remedy.name, "changed": one.remedy.changed} | {name: getattr(one, name) for name in measures}
        for one in outcomes
    ]
    return pd.DataFrame(rows).set_index("treatment")


def in_words(outcome: Outcome, value: float, error: float | None = None) -> str:
    """A gain, and its standard error, with the unit."""
    scale, digits, unit = (1.0, ".3g", "in loss") if outcome.accuracy is None else (100.0, ".1f", "points")
    spread = "" if error is None else f" ± {scale * error:{digits}}"
    return f"{scale * value:{digits}}{spread} {unit}"

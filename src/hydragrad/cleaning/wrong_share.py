"""How many labels are wrong, as an interval: what the network says of them, against what it says of right ones.

Over training, another label is so much likelier than the given one, by more than t, for the share d(t) of the training
samples and e(t) of held-out ones, whose labels are right. Were right training labels contradicted as often as held-out
ones, the share s of wrong ones, contradicted or not, would be at least (d(t) - e(t)) / (1 - e(t)), for every t: the
largest of these is the lower end. Right labels that were trained on are contradicted less often, and where the network
knows all of them by heart, whatever it contradicts is wrong: d(0) is the upper end, and more, d(0) / (1 - a), where
wrong labels are those that the network itself would have given: a is how often it takes held-out samples of a class for
the class that it confuses it with most. Wrong labels that were learned by heart are in neither.

Source: the lower end is that of mixture proportions: Blanchard, Lee and Scott, JMLR 2010.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.cleaning.signals import POINTS, Signals, checkpoints_of, logits_of, model_with
from hydragrad.cleaning.suspicion import against
from hydragrad.errors import LossError
from hydragrad.replay import Recording
from hydragrad.replay.data import data_fingerprint
from hydragrad.replay.held_out import HeldOutBatches
from hydragrad.runs.kept import Kept
from hydragrad.trained_elsewhere import Checkpoints

NORMAL_90 = 1.6449
"""Half of the central 90 % of a normal distribution, in standard deviations."""
NORMAL_OF_SEVERAL = 2.3
"""The same for the largest of a few, which the neighbouring thresholds amount to."""


@dataclass(frozen=True)
class WrongShare:
    """Between which shares of labels are wrong; with 90 % for what sampling does.

    Attributes:
        low: Where the network learned no label by heart.
        high: Where it knows all right ones by heart.
        contradicted: Share of the labels that it contradicts over training.
    """

    low: float
    high: float
    contradicted: float


@dataclass(frozen=True)
class HeldOutErrors:
    """How a network errs on held-out data, over training.

    Attributes:
        against: Largest probability of another label minus that of the right one, (samples,).
        confusion: Share of the samples of a class that it takes for the class it confuses it with most, mean.
    """

    against: Tensor
    confusion: float


def wrong_share(signals: Signals, held_out: HeldOutErrors) -> WrongShare:
    """Between which shares of the training labels are wrong."""
    trained, right = against(signals.over_training, signals.given), held_out.against
    lows = [0.0]
    for threshold in torch.linspace(0, 0.95, 39):
        d, e = (_share_above(values, float(threshold)) for values in (trained, right))
        variance = _variance(d, trained) / (1 - e) ** 2 + _variance(e, right) * ((1 - d) / (1 - e) ** 2) ** 2
        lows.append((d - e) / (1 - e) - NORMAL_OF_SEVERAL * math.sqrt(variance))
    contradicted = float((trained > 0).double().mean())
    above = contradicted + NORMAL_90 * math.sqrt(_variance(contradicted, trained))
    high = above / (1 - held_out.confusion) if held_out.confusion < 1 else 1.0
    return WrongShare(max(lows), min(1.0, high), contradicted)


def _share_above(values: Tensor, threshold: float) -> float:
    """Share of values above a threshold, never 0 or 1: one value more on either side."""
    return (float((values > threshold).sum()) + 1) / (len(values) + 2)


def _variance(share: float, of: Tensor) -> float:
    return share * (1 - share) / len(of)


def held_out_errors(run: Recording | Checkpoints, held_out: Dataset[object]) -> HeldOutErrors | None:
    """How the network errs on held-out data over training; that of a run is saved in RUN/signals.

    Returns:
        None where the held-out data show no label.

    Cost: ten evaluations of the held-out data.
    """
    if isinstance(run, Checkpoints):
        return _measured(run, held_out)
    kept = Kept(run.path / "signals", "held-out", [run.digest, POINTS, data_fingerprint(held_out)])
    saved = kept.read_as(lambda tensors, _: HeldOutErrors(tensors["against"], float(tensors["confusion"])))
    if saved is not None:
        return saved
    measured = _measured(run, held_out)
    if measured is not None:
        confusion = torch.tensor(measured.confusion, dtype=torch.float64)
        kept.write({"against": measured.against, "confusion": confusion})
    return measured


def _measured(run: Recording | Checkpoints, held_out: Dataset[object]) -> HeldOutErrors | None:
    batches, length = HeldOutBatches(run.model, run.loss, run.collate_fn, run.device), len(held_out)  # type: ignore[arg-type]
    total, labels = None, torch.empty(0)
    for read in checkpoints_of(run, POINTS):
        checkpoint = read()
        model = model_with(run, checkpoint.parameters | checkpoint.buffers)
        try:
            logits, labels = logits_of(run, model, partial(batches, held_out), length)
        except LossError:
            return None
        total = logits.softmax(1) if total is None else total + logits.softmax(1)
    assert total is not None
    mean = total / total.sum(1, keepdim=True)
    counts = torch.zeros(2 * [mean.shape[1]], dtype=torch.float64)
    counts.index_put_((labels, mean.argmax(1)), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    confused = counts.fill_diagonal_(0).max(1).values.sum()
    return HeldOutErrors(against(mean, labels), float(confused) / len(labels))

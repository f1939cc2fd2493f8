"""What training shows about each sample's label: the trained model, earlier checkpoints, models that never saw it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hydragrad.errors import LossError, QueryError
from hydragrad.execution import Execution, ExecutorOption, execution_of
from hydragrad.progress import bar
from hydragrad.replay import Recording, Trained, samples_in
from hydragrad.replay.changed_run import Change
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from hydragrad.replay.retraining import retrain
from hydragrad.runs import Checkpoint
from hydragrad.runs.buffers import put_state
from hydragrad.runs.kept import Kept
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints, require_recorded
from hydragrad.training.measuring import evaluated

POINTS = 10
"""Checkpoints that stand for a run."""
EARLY = 3.0
"""Power of the spread of early checkpoints: half of them lie in the first eighth of the run."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """Predicted probabilities of every training sample, in the order of the training set.

    Attributes:
        given: Labels that were trained on, int64 (samples,).
        at_end: Probabilities by the trained model, float64 (samples, classes).
        over_training: Their mean over checkpoints of the run, float64 (samples, classes).
        early: As `over_training`, over checkpoints that are dense at the start of the run, where samples that agree
            with one another are not learned yet, float64 (samples, classes); None where there are no such checkpoints.
        margin: Logit of the given label minus the largest other one, mean over those checkpoints, float64 (samples,).
        out_of_fold: Probabilities by models trained without the sample, float64 (samples, classes), or None.

    Source: margin over training: Pleiss et al., NeurIPS 2020 ("AUM"); out of fold: Northcutt et al., JAIR 2021.
    """

    given: Tensor
    at_end: Tensor
    over_training: Tensor
    margin: Tensor
    out_of_fold: Tensor | None = None
    early: Tensor | None = None

    def of(self, samples: Tensor) -> "Signals":
        """Those of some samples, in their order."""
        return Signals(**{name: values[samples] for name, values in vars(self).items() if values is not None})


@in_clean_surroundings
def training_signals(
    run: Recording | Checkpoints,
    *,
    points: int = POINTS,
    folds: int = 0,
    seed: int = 0,
    executor: ExecutorOption = None,
    workers: int | None = None,
) -> Signals:
    """Measure them once; they are saved in RUN/signals, those of checkpoints nowhere.

    Args:
        run: A completed run of a classifier, or checkpoints of one trained elsewhere, without folds.
        points: Checkpoints at which all samples are evaluated: those nearest to the ends of so many equal parts of the
            run, the trained model included; and as many again that are dense at the start.
        folds: Train so many times without one part of the samples each; 0 leaves out-of-fold probabilities out.
        seed: Of the parts.
        executor, workers: As `counterfactual` takes them.

    Raises:
        LossError: The model's one call does not return logits (batch, classes), or the loss has no label.
        QueryError: The run was not completed, or a single fold.

    Cost: at most twice `points` evaluations of the training set, and `folds` trainings, saved in RUN/retrained.
    """
    if folds:
        require_recorded(run, "training_signals(folds=...)")
    if isinstance(run, Checkpoints):
        return _measure(run, points)
    kept = _kept(run, points, folds, seed)
    signals = kept.read_as(lambda tensors, _: Signals(**tensors))
    if signals is None:
        signals = _measure(run, points)
        if folds:
            signals = replace(signals, out_of_fold=_out_of_fold(run, folds, seed, execution_of(executor, workers)))
        kept.write({name: values for name, values in vars(signals).items() if values is not None})
    return signals


def signals_file(run: Recording, *, points: int = POINTS, folds: int = 0, seed: int = 0) -> Path:
    """Where `training_signals` saves them."""
    return _kept(run, points, folds, seed).path


def _kept(run: Recording, points: int, folds: int, seed: int) -> Kept:
    key = [run.digest, spread_steps(run, max(1, points)), folds, seed, _early(run, points), "labels by behaviour"]
    return Kept(run.path / "signals", f"points{points}-folds{folds}", key)


def checkpoints_of(run: Recording | Checkpoints, points: int) -> list[Callable[[], Checkpoint]]:
    """Read the checkpoints nearest to the ends of so many equal parts of a run, or of those there are, the trained one
    last."""
    if isinstance(run, Checkpoints):
        return [partial(run.at, number) for number in run.spread(max(1, points))]
    return [partial(checkpoint_at, run, step) for step in spread_steps(run, max(1, points))]


def model_with(run: Trained, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the trained model with the parameters and buffers of another state."""
    model = run.trained_model()
    put_state(model, state)
    return model


def _measure(run: Recording | Checkpoints, points: int) -> Signals:
    """Evaluate all samples at the trained weights and at earlier checkpoints."""
    if isinstance(run, Checkpoints):
        even, early = run.spread(max(1, points)), list[int]()
    else:
        even, early = spread_steps(run, max(1, points)), _early(run, points)
    places, labels, probabilities = sorted({*even, *early}), torch.empty(0), torch.empty(0)
    over_training = over_early = margin = torch.zeros((), dtype=torch.float64)
    with bar("evaluating", len(places), unit="checkpoints") as progress:
        for place in places:
            model = run.trained_model() if place == places[-1] else _model_at(run, place)
            logits, labels = _logits(run, model)
            probabilities = logits.softmax(1)
            if place in even:
                over_training, margin = over_training + probabilities, margin + _margin(logits, labels)
            if place in early:
                over_early = over_early + probabilities
            progress.advance()
    return Signals(
        given=labels,
        at_end=probabilities,
        over_training=over_training / len(even),
        margin=margin / len(even),
        early=over_early / len(early) if early else None,
    )


def _early(run: Recording, points: int) -> list[int]:
    return spread_steps(run, max(1, points), power=EARLY)


def _model_at(run: Recording | Checkpoints, place: int) -> nn.Module:
    """The model after a step of a recorded run, or at a checkpoint of a model trained elsewhere, by its number."""
    checkpoint = run.at(place) if isinstance(run, Checkpoints) else checkpoint_at(run, place)
    return model_with(run, checkpoint.parameters | checkpoint.buffers)


def _out_of_fold(run: Recording, folds: int, seed: int, execution: Execution) -> Tensor:
    """Every sample by the run repeated without its fold; the others weigh more, so that steps keep their size."""
    length = run.manifest.data["length"]
    if not 2 <= folds <= length:
        raise QueryError(f"folds must be 0, or 2 to {length:,}, the number of samples; got {folds}.")
    if not run.completed:
        raise QueryError(f"{run.path} was not completed. Train on with resume=True.")
    from sklearn.model_selection import KFold  # slow to import

    parts = [part for _, part in KFold(folds, shuffle=True, random_state=seed).split(np.zeros(length))]
    weight = folds / (folds - 1)
    changes = []
    for part in parts:
        weights = dict.fromkeys(range(length), weight) | dict.fromkeys(part.tolist(), 0.0)
        changes.append(Change(weights=weights))
    probabilities: Tensor | None = None
    for number, state in retrain(run, changes, execution=execution, keep=True):
        logits, _ = _logits(run, model_with(run, state))
        probabilities = torch.empty_like(logits) if probabilities is None else probabilities
        probabilities[parts[number]] = logits[parts[number]].softmax(1)
    assert probabilities is not None
    return probabilities


def logits_of(
    run: Trained, model: nn.Module, fetch_batch: Callable[[Sequence[int]], Any], length: int
) -> tuple[Tensor, Tensor]:
    """Logits float64 (samples, classes) and labels int64 (samples,) of a data set.

    Raises:
        LossError: The model's one call does not return logits, or the loss compares them with no label.
    """
    logits, labels = [], []
    for part in evaluated(model, run.loss, range(length), fetch_batch, length=length):
        if part.output is None or part.labels is None or not part.softmax:
            raise LossError(
                "Signals of training need a classifier: the loss calls the model once, its output is logits (batch, "
                "classes), and the loss compares them with one label a sample. Rank by contributions alone "
                "(signals=None)."
            )
        logits.append(part.output.double().cpu())
        labels.append(part.labels.long().cpu())
    return torch.cat(logits), torch.cat(labels)


def _logits(run: Trained, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The same of the training set."""
    return logits_of(run, model, run.collate, samples_in(run))


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).max(1).values

"""What training itself says of each sample's label: the trained model, the way there, and models that never saw it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hydragrad.disk import load_sealed, save_sealed
from hydragrad.errors import LossError, QueryError
from hydragrad.progress import bar
from hydragrad.replay import Recording
from hydragrad.replay.retraining import Change, retrain
from hydragrad.training.measuring import evaluated


@dataclass(frozen=True, kw_only=True)
class Signals:
    """Predicted probabilities of every training sample, in the order of the training set.

    Attributes:
        given: Labels that were trained on, int64 (samples,).
        at_end: Probabilities by the trained model, float64 (samples, classes).
        over_training: Their mean over points of the run, float64 (samples, classes).
        margin: Logit of the given label less the largest other one, mean over those points, float64 (samples,).
        out_of_fold: Probabilities by models trained without the sample, float64 (samples, classes), or None.

    Source: margin over training: Pleiss et al., NeurIPS 2020 ("AUM"); out of fold: Northcutt et al., JAIR 2021.
    """

    given: Tensor
    at_end: Tensor
    over_training: Tensor
    margin: Tensor
    out_of_fold: Tensor | None = None

    def of(self, samples: Tensor) -> "Signals":
        """Those of some samples, in their order."""
        return Signals(**{name: each[samples] for name, each in vars(self).items() if each is not None})


def training_signals(run: Recording, *, points: int = 10, folds: int = 0, seed: int = 0, workers: int = 1) -> Signals:
    """Measure them, and keep them in RUN/signals for the next time.

    Args:
        run: A completed run of a classifier.
        points: Checkpoints, evenly spread over the run, at which all samples are evaluated.
        folds: Train so many times without one part of the samples each; 0 leaves out-of-fold probabilities out.
        seed: Of the parts.
        workers: Processes that train at the same time.

    Raises:
        LossError: The model's one call does not return logits (batch, classes), or the batch has no integer labels.
        QueryError: The run was not completed, or a single fold.

    Cost: `points` evaluations of the training set, and `folds` trainings, which are kept in RUN/retrained.
    """
    file = signals_file(run, points=points, folds=folds, seed=seed)
    kept = _load(file)
    if kept is None:
        kept = _measure(run, points, folds, seed, workers)
        save_sealed({name: value for name, value in vars(kept).items() if value is not None}, file)
    return kept


def signals_file(run: Recording, *, points: int = 10, folds: int = 0, seed: int = 0) -> Path:
    """Where `training_signals` keeps them."""
    return run.path / "signals" / f"step{len(run.steps)}-points{points}-folds{folds}-seed{seed}.safetensors"


def _load(file: Path) -> Signals | None:
    if not file.exists():
        return None
    try:
        return Signals(**load_sealed(file)[0])
    except (OSError, TypeError, ValueError):
        return None  # damaged: measured again


def _measure(run: Recording, points: int, folds: int, seed: int, workers: int) -> Signals:
    logits, given = _logits(run, run.trained_model())
    ways = [] if points < 2 else _states(run, points - 1)
    mean, margin = torch.zeros_like(logits), torch.zeros(len(given), dtype=torch.float64)
    with bar("evaluating", len(ways), unit="checkpoints") as progress:
        for state in ways:
            then, _ = _logits(run, _at(run, state))
            mean += then.softmax(1)
            margin += _margin(then, given)
            progress.advance()
    count = len(ways) + 1
    return Signals(
        given=given,
        at_end=logits.softmax(1),
        over_training=(mean + logits.softmax(1)) / count,
        margin=(margin + _margin(logits, given)) / count,
        out_of_fold=_out_of_fold(run, folds, seed, workers) if folds else None,
    )


def _out_of_fold(run: Recording, folds: int, seed: int, workers: int) -> Tensor:
    """Every sample by the run repeated without its part; the others weigh more, so that steps keep their size."""
    length = run.manifest.data["length"]
    if not 2 <= folds <= length:
        raise QueryError(f"Out-of-fold probabilities need 2 folds to as many as samples; {folds} came.")
    if not run.completed:
        raise QueryError(f"{run.path} was not completed. Train on with resume=True.")
    from sklearn.model_selection import KFold  # slow to import

    parts = [part for _, part in KFold(folds, shuffle=True, random_state=seed).split(np.zeros(length))]
    kept = folds / (folds - 1)
    changes = []
    for part in parts:
        weights = dict.fromkeys(range(length), kept) | dict.fromkeys(part.tolist(), 0.0)
        changes.append(Change(weights=weights))
    found: Tensor | None = None
    for number, state in retrain(run, changes, workers=workers, keep=True):
        logits, _ = _logits(run, _at(run, state))
        found = torch.empty_like(logits) if found is None else found
        found[parts[number]] = logits[parts[number]].softmax(1)
    assert found is not None
    return found


def _states(run: Recording, count: int) -> list[Mapping[str, Tensor]]:
    """Parameters and buffers at checkpoints, evenly spread; neither the start nor the end."""
    starts = [start for start, _ in run.segments if start > 0]
    chosen = sorted({starts[int(place)] for place in np.linspace(0, len(starts) - 1, count)}) if starts else []
    checkpoints = (run.checkpoint(step) for step in chosen)
    return [checkpoint.parameters | checkpoint.buffers for checkpoint in checkpoints]


def _at(run: Recording, state: Mapping[str, Tensor]) -> nn.Module:
    model = run.trained_model()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        value.copy_(state[name])
    return model


def _logits(run: Recording, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits float64 (samples, classes) and labels int64 (samples,) of the training set."""
    logits, labels = [], []
    for part in evaluated(model, run.loss, run.manifest.data["length"], run.collate):
        if part.logits is None or part.labels is None:
            raise LossError(
                "Signals of training need a classifier: the loss calls the model once, its output is logits (batch, "
                "classes), and the batch holds integer labels (batch,). Rank by contributions alone (signals=None)."
            )
        logits.append(part.logits.double().cpu())
        labels.append(part.labels.long().cpu())
    return torch.cat(logits), torch.cat(labels)


def _margin(logits: Tensor, given: Tensor) -> Tensor:
    chosen = logits.gather(1, given[:, None])[:, 0]
    return chosen - logits.scatter(1, given[:, None], -torch.inf).max(1).values

"""What the trained model says of samples: loss, predicted label, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hydragrad.derivatives import require_parts
from hydragrad.randomness import preserved
from hydragrad.replay import Trained
from hydragrad.replay.held_out import HeldOutBatches
from hydragrad.training.measuring import evaluated


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Of some samples, in their order.

    Attributes:
        losses: (samples,).
        given: Labels in the data, int64 (samples,), or None where there are none.
        predicted: Labels that the model predicts, int64 (samples,), or None where it does not classify.
        sure: Probability of the predicted label, (samples,), or None.
        of_given: Probability of the given label, (samples,), or None.
        of_other: Probability of another label, (samples,), or None.
        classes: How many labels the model distinguishes; 0 where it does not classify.
    """

    losses: NDArray[np.float64]
    given: NDArray[np.int64] | None
    predicted: NDArray[np.int64] | None
    sure: NDArray[np.float64] | None
    of_given: NDArray[np.float64] | None
    of_other: NDArray[np.float64] | None
    classes: int


def predictions(
    run: Trained, dataset: Dataset[Any], samples: Sequence[int], other: Sequence[int] | None = None
) -> Predictions:
    """Evaluate samples of a data set with the run's trained model.

    Args:
        run: A recorded run, or checkpoints: whose final model is evaluated.
        dataset: Training or held-out data.
        samples: Which ones.
        other: A further label of each sample whose probability is wanted.

    Cost: one forward pass of the samples.
    """

    held_out = HeldOutBatches(run.model, run.loss, run.collate_fn, run.device)

    def fetched(some: Sequence[int]) -> Any:
        return run.collate(some) if dataset is run.train_set else held_out(dataset, some)

    losses, given, predicted, sure, of_given, of_other, classes = [], [], [], [], [], [], 0
    others = None if other is None else torch.as_tensor(np.asarray(other, dtype=np.int64))
    done = 0
    with preserved():
        length = len(dataset)  # type: ignore[arg-type]
        for part in evaluated(run.trained_model(), run.loss, samples, fetched, length=length):
            losses.append(part.losses.double().cpu())
            size = len(part.losses)
            if part.labels is not None:
                given.append(part.labels.long().cpu())
            if part.output is not None and part.softmax and part.labels is not None and part.output.shape[1] > 1:
                chances = part.output.double().softmax(1).cpu()
                classes = chances.shape[1]
                best, label = chances.max(1)
                predicted.append(label)
                sure.append(best)
                of_given.append(chances.gather(1, given[-1][:, None])[:, 0])
                if others is not None and _fits(others, classes):
                    of_other.append(chances.gather(1, others[done : done + size, None])[:, 0])
            done += size
    return Predictions(
        losses=torch.cat(losses).numpy(),
        given=_whole(given, done),
        predicted=_whole(predicted, done),
        sure=_whole(sure, done),
        of_given=_whole(of_given, done),
        of_other=_whole(of_other, done),
        classes=classes,
    )


def part_losses(run: Trained, dataset: Dataset[Any], sample: int) -> list[float]:
    """Losses of the parts of a sample by the run's trained model, in eval mode; NaN where there is no part.

    Args:
        run: Whose loss is made by `hg.loss_of_parts`.
        dataset: Held-out data.
        sample: Which one.
    """
    loss = require_parts(run.loss)
    batch = HeldOutBatches(run.model, run.loss, run.collate_fn, run.device)(dataset, [sample])
    with preserved(), torch.no_grad():
        terms = loss.terms(run.trained_model().eval(), batch)
    losses: list[float] = terms.part_losses.masked_fill(~terms.is_part, torch.nan)[0].double().tolist()
    return losses


def _fits(labels: torch.Tensor, classes: int) -> bool:
    return classes > 1 and bool(len(labels)) and int(labels.min()) >= 0 and int(labels.max()) < classes


def _whole(parts: list[torch.Tensor], length: int) -> NDArray[Any] | None:
    """The parts as one array, if every sample has its number."""
    return torch.cat(parts).numpy() if sum(map(len, parts)) == length > 0 else None

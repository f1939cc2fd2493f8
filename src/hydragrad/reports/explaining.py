"""Which training samples moved which test samples, for either side.

A test sample's strongest training samples, and a training sample's strongest test samples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.errors import QueryError
from hydragrad.replay import Recording, Trained
from hydragrad.reports.predictions import Predictions, predictions
from hydragrad.scores import SHARE, Note, Scores, reads_as_change, sample_losses, shares_of, single_samples_of
from hydragrad.tracking import Store

EXPLAINED = 300
"""Test samples that are explained, at most."""

WRONG_SHARE = 0.75
"""Of those, share that may be misclassified ones; they come first."""

TOP, BACK = 8, 4
"""Training samples a test sample, and test samples a training sample, on either side."""

AT_ONCE = 100
"""Test samples whose contributions are in memory at the same time."""

Part = tuple[Tensor, Tensor | None]
"""Contributions to some test samples, (tests, samples), and their standard errors."""


@dataclass(frozen=True, kw_only=True)
class Explanations:
    """Contributions of training samples to the losses of test samples, the largest ones for either side.

    Attributes:
        dataset: The test samples' data set; None where only their numbers are known.
        samples: Which test samples, (tests,).
        predictions: What the model says of them, or None.
        misclassified: How many of the whole data set's samples are misclassified, and of how many, if known.
        helpful, harmful: Training samples, the strongest first, int64 (tests, top).
        helpful_values, harmful_values: Their contributions, (tests, top).
        trained: The training samples, int64 (trained,).
        helped, harmed: Places of the test samples that each of them helped and harmed most, (trained, back).
        helped_values, harmed_values: Its contributions to them, (trained, back).
        errors: Standard errors of all four by name (helpful_errors, ...), in the same shapes; None where not known.
        suffix: What follows a contribution: " %" where they are shares of the sum of all sizes, else nothing.
        notes: What a reader must know.
    """

    dataset: Dataset[Any] | None
    samples: NDArray[np.int64]
    predictions: Predictions | None
    misclassified: tuple[int, int] | None
    helpful: NDArray[np.int64]
    helpful_values: NDArray[np.float64]
    harmful: NDArray[np.int64]
    harmful_values: NDArray[np.float64]
    trained: NDArray[np.int64]
    helped: NDArray[np.int64]
    helped_values: NDArray[np.float64]
    harmed: NDArray[np.int64]
    harmed_values: NDArray[np.float64]
    errors: Mapping[str, NDArray[np.float32]] | None
    suffix: str
    notes: tuple[Note, ...]

    def named(self) -> list[int]:
        """Training samples that some test sample names."""
        return list(dict.fromkeys([*self.helpful.ravel().tolist(), *self.harmful.ravel().tolist()]))


def from_store(run: Recording, store: Store, dataset: Dataset[Any], *, count: int = EXPLAINED) -> Explanations:
    """Explain test samples by a store of hypergradients, misclassified ones first.

    Args:
        run: The run that the store belongs to.
        store: Rows of the training samples.
        dataset: Test samples.
        count: How many of them are explained, at most.

    Cost: one forward pass of the data set, `count` gradients, and `count` products with the store.
    """
    length = len(dataset)  # type: ignore[arg-type]
    if not length:
        raise QueryError("The test set is empty, so there is no prediction to explain.")
    everything = predictions(run, dataset, range(length))
    samples = _worst(everything, count)

    def parts() -> Iterator[Part]:
        for start in range(0, len(samples), AT_ONCE):
            scores = store.contributions(sample_losses(dataset, samples[start : start + AT_ONCE].tolist()))
            assert isinstance(scores, Scores)
            yield _part(scores, shares)

    evidence = store.evidence()
    shares = evidence.curvature == "none"
    wrong = None if everything.predicted is None else (int((everything.predicted != everything.given).sum()), length)
    return _explanations(
        parts(),
        store.sample_ids,
        dataset=dataset,
        samples=samples,
        predictions=predictions(run, dataset, samples.tolist()),
        misclassified=wrong,
        suffix=SHARE if shares else "",
        notes=evidence.notes,
    )


def from_scores(run: Trained, scores: Scores, dataset: Dataset[Any] | None) -> Explanations:
    """Explain the test samples that scores were computed for.

    Args:
        run: The run.
        scores: Contributions to losses of single samples (hg.sample_losses).
        dataset: Test samples; where None, that of the scores' queries if they are known.

    Raises:
        QueryError: Scores of something else.
    """
    explained = explained_samples(scores)
    if explained is None:
        raise QueryError(
            f"Predictions are explained by contributions to losses of single samples, got scores of "
            f"{', '.join(scores.query_names[:3])}. Compute them: hg.attribute(run, hg.sample_losses(test_set, [...]))."
        )
    own, samples = explained
    dataset = own if dataset is None else dataset
    predicted = None if dataset is None else predictions(run, dataset, samples)
    order = np.arange(len(samples)) if predicted is None else _order(predicted)
    if predicted is not None:
        predicted = predictions(run, dataset, np.asarray(samples)[order].tolist())  # type: ignore[arg-type]
    values = zip(scores.values, scores.query_values.tolist(), strict=True)
    shares = not all(reads_as_change(scores.evidence, row, value) for row, value in values)
    every, errors = _part(scores, shares)
    rows = torch.from_numpy(order)
    return _explanations(
        iter([(every[rows], None if errors is None else errors[rows])]),
        scores.sample_ids,
        dataset=dataset,
        samples=np.asarray(samples)[order],
        predictions=predicted,
        misclassified=None,
        suffix=SHARE if shares else "",
        notes=scores.evidence.notes,
    )


def _part(scores: Scores, shares: bool) -> Part:
    """Contributions and standard errors as a person is shown them."""
    if not shares:
        return scores.values, scores.standard_errors
    factors = torch.tensor([[shares_of(row).factor] for row in scores.values], dtype=torch.float64)
    return factors * scores.values, None if scores.standard_errors is None else factors * scores.standard_errors


def explained_samples(scores: Scores) -> tuple[Dataset[Any] | None, tuple[int, ...]] | None:
    """Data set, if known, and test samples whose losses all of the scores' rows are; None for other scores."""
    if scores.queries is not None:
        return single_samples_of(scores.queries)
    return None if scores.query_samples is None else (None, scores.query_samples)


def _worst(predicted: Predictions, count: int) -> NDArray[np.int64]:
    """Misclassified samples with the largest losses, and right ones with the largest losses after them."""
    order = _order(predicted)
    if predicted.predicted is None or predicted.given is None:
        return order[:count]
    wrong = (predicted.predicted != predicted.given)[order]
    room = max(round(WRONG_SHARE * count), count - int((~wrong).sum()))
    first = order[wrong][:room]
    return np.concatenate([first, order[~wrong][: count - len(first)]])


def _order(predicted: Predictions) -> NDArray[np.int64]:
    """Misclassified first, and the largest losses first among both."""
    if predicted.predicted is None or predicted.given is None:
        return np.argsort(-predicted.losses, kind="stable")
    return np.lexsort((-predicted.losses, predicted.predicted == predicted.given))


@dataclass
class _Best:
    """The largest entries of every column, over rows that arrive in parts."""

    size: int
    values: Tensor | None = None
    rows: Tensor | None = None
    seen: int = field(default=0)

    def add(self, part: Tensor) -> None:
        """Take in rows, (rows, columns)."""
        rows = torch.arange(self.seen, self.seen + len(part))[:, None].expand_as(part)
        self.seen += len(part)
        if self.values is not None and self.rows is not None:
            part, rows = torch.cat([self.values, part]), torch.cat([self.rows, rows])
        self.values, at = part.topk(min(self.size, len(part)), dim=0)
        self.rows = rows.gather(0, at)


def _explanations(parts: Iterator[Part], ids: Tensor, **rest: Any) -> Explanations:
    helpful, harmful, noise = [], [], []
    best, worst = _Best(BACK), _Best(BACK)
    top = min(TOP, len(ids))
    for values, errors in parts:
        helpful.append(values.topk(top, dim=1))
        harmful.append((-values).topk(top, dim=1))
        best.add(values)
        worst.add(-values)
        if errors is not None:
            noise.append(errors.float())
    assert best.values is not None and best.rows is not None and worst.values is not None and worst.rows is not None
    helped_by, harmed_by = (torch.cat([part.indices for part in side]) for side in (helpful, harmful))
    known = None
    if noise:
        every = torch.cat(noise)
        known = {
            "helpful_errors": every.gather(1, helped_by).numpy(),
            "harmful_errors": every.gather(1, harmed_by).numpy(),
            "helped_errors": every.gather(0, best.rows).T.numpy(),
            "harmed_errors": every.gather(0, worst.rows).T.numpy(),
        }
    return Explanations(
        helpful=ids[helped_by].numpy(),
        helpful_values=torch.cat([part.values for part in helpful]).numpy(),
        harmful=ids[harmed_by].numpy(),
        harmful_values=-torch.cat([part.values for part in harmful]).numpy(),
        trained=ids.numpy(),
        helped=best.rows.T.numpy(),
        helped_values=best.values.T.numpy(),
        harmed=worst.rows.T.numpy(),
        harmed_values=-worst.values.T.numpy(),
        errors=known,
        **rest,
    )

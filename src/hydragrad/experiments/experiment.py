"""An experiment: everything that is needed to train, reopen and evaluate a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from hydragrad.cleaning import Labels
from hydragrad.derivatives import PerSampleLoss
from hydragrad.errors import QueryError, UnknownName
from hydragrad.experiments.named_query import NamedQuery
from hydragrad.experiments.recipes import Start
from hydragrad.experiments.settings import Settings
from hydragrad.scores import Curvature, Query, mean_loss, sample_losses
from hydragrad.training import mean_loss_and_accuracy


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Data, loss and fresh starts.

    Attributes:
        settings: What it was built from.
        start: `start(seed)` initialises anew.
        loss: Per-sample loss.
        train_set: The training samples, noise included.
        held_out: Further data sets by name: validation, test.
        labels: Given and true labels, where noise was planted.
        planted: Which training samples are wrong on purpose where they have no labels, bool (N,).
        classes: Names of the labels, where known.
        render: Picture of any data set's item, if the data are images; its text, if they are texts.
        pieces: Text of every part of any data set's item, "" where there is none, if the data are texts, or shown by a
            tokenizer of the user's.
        shown: Picture of any data set's input, if the data are images.
        measure: `measure(model, data_set)` returns mean loss and accuracy; the loss and its labels say how if None.
        accuracy_name: What a person calls that accuracy.
    """

    settings: Settings
    start: Callable[[int], Start]
    loss: PerSampleLoss
    train_set: Dataset[Any]
    held_out: Mapping[str, Dataset[Any]]
    labels: Labels | None = None
    planted: Tensor | None = None
    classes: tuple[str, ...] | None = None
    render: Callable[[Any], NDArray[np.uint8] | str] | None = None
    pieces: Callable[[Any], Sequence[str]] | None = None
    shown: Callable[[Tensor], NDArray[np.uint8]] | None = None
    measure: Callable[[nn.Module, Dataset[Any]], tuple[float, float | None]] | None = None
    accuracy_name: str = "accuracy"

    @property
    def is_text(self) -> bool:
        """Whether the samples are texts, which have no labels."""
        return self.measure is not None

    @property
    def curvature(self) -> Curvature:
        """The one that is taken where the user names no other: exact for texts trained by AdamW."""
        return "hessian" if self.is_text and self.settings.optimizer == "adamw" else "none"

    def query(self, text: str) -> Query:
        """Return the query named on the command line: `validation`, `test`, `train`, every other sample of one,
        `validation-half`, or one sample, `test:42`.

        Raises:
            QueryError: No such data set, or no such sample.
        """
        named = self.named_query(text)
        samples = self.data_set(named.data_set)
        if named.sample is not None:
            return sample_losses(samples, [named.sample])
        if named.half:
            return mean_loss(self.halves(named.data_set)[0], name=f"{named.data_set} loss (every other sample)")
        return mean_loss(samples, name=f"{named.data_set} loss")

    def named_query(self, text: str) -> NamedQuery:
        """Return data set and sample of a query that was typed on the command line.

        Raises:
            QueryError: No such data set, or no number of a sample.
        """
        return NamedQuery.parse(text, self._data_sets())

    def data_set(self, name: str) -> Dataset[Any]:
        """Return a data set by name: train, or one of the held-out ones.

        Raises:
            UnknownName: There is none of that name.
        """
        known = self._data_sets()
        if name not in known:
            raise UnknownName(f"There is no data set {name!r} here; there are {', '.join(known)}.")
        return known[name]

    def halves(self, name: str) -> tuple[Dataset[Any], Dataset[Any]]:
        """Return the samples of a data set with even numbers, and those with odd ones.

        Raises:
            UnknownName: There is none of that name.
            QueryError: It has a single sample.
        """
        whole = self.data_set(name)
        length = len(whole)  # type: ignore[arg-type]
        if length < 2:
            raise QueryError(f"The {name} set must have two samples or more to be halved; it has {length}.")
        return Subset(whole, range(0, length, 2)), Subset(whole, range(1, length, 2))

    def loss_and_accuracy(self, model: nn.Module, data_set: Dataset[Any]) -> tuple[float, float | None]:
        """Return mean loss, and the share of right predictions where the model classifies samples or tokens."""
        if self.measure is not None:
            return self.measure(model, data_set)
        return mean_loss_and_accuracy(model, self.loss, data_set)

    def test_accuracy(self, model: nn.Module) -> float | None:
        """Return the share of right predictions on the test set, if there is one and the model classifies."""
        if "test" not in self.held_out:
            return None
        return self.loss_and_accuracy(model, self.held_out["test"])[1]

    def monitor(self, model: nn.Module) -> dict[str, float]:
        """Measure loss and accuracy on the validation set; training calls it once an epoch."""
        if "validation" not in self.held_out:
            return {}
        loss, accuracy = self.loss_and_accuracy(model, self.held_out["validation"])
        return {"validation_loss": loss} | ({} if accuracy is None else {"validation_accuracy": accuracy})

    def _data_sets(self) -> dict[str, Dataset[Any]]:
        return {**self.held_out, "train": self.train_set}

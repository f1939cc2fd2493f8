"""Batches of held-out data: through a collate function of their own, torch's by default."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hydragrad.derivatives import Evaluator
from hydragrad.derivatives.copying import copy_of
from hydragrad.errors import QueryError
from hydragrad.randomness import preserved
from hydragrad.replay.data import Collate, fetch
from hydragrad.replay.fingerprints import batch_digest


class HeldOutBatches:
    """Makes batches of data that a run was not trained on.

    A query's own collate function comes first. Without one it is torch's default, because that of training may mix
    samples (mixup) or augment them. Where the default can't make a batch that the loss takes (sequences of different
    lengths, batches of another type) it is that of training, if it draws no random numbers.

    Args:
        model: A model like the recorded one; it is never changed.
        loss: The run's per-sample loss.
        collate: What training made batches with; None if that was torch's default.
        device: Where the tensors are put.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[Any, Any], Tensor], collate: Collate | None, device: torch.device
    ) -> None:
        self._model, self._loss, self._of_training, self._device = model, loss, collate, device
        self._chosen: dict[int, tuple[Dataset[Any], Collate | None]] = {}

    def __call__(self, dataset: Dataset[Any], indices: Sequence[int], collate: Collate | None = None) -> Any:
        """The batch of some samples.

        Args:
            dataset: Map-style data set.
            indices: Which samples.
            collate: What the query brings; None if it brings none.

        Raises:
            QueryError: Neither torch's default collate function nor that of training will do.
        """
        if collate is None and self._of_training is not None:
            if id(dataset) not in self._chosen:
                self._chosen[id(dataset)] = dataset, self._choose(dataset, list(indices[:2]))
            collate = self._chosen[id(dataset)][1]
        return fetch(dataset, indices, seed=0, collate=collate, device=self._device)

    def _choose(self, dataset: Dataset[Any], some: list[int]) -> Collate | None:
        """Torch's default (None) where the loss takes its batches, else that of training; tried on a few samples."""
        digests = [self._digest_in_training(dataset, some, seed) for seed in (0, 1)]
        draws = digests[0] != digests[1]
        try:
            batch = fetch(dataset, some, seed=0, collate=None, device=self._device)
            self._evaluate(batch)
        except Exception as error:
            if draws or digests[0] is None:
                raise QueryError(
                    f"Held-out data must have a collate function that makes the same batch every time; that of "
                    f"training does not, and with torch's default there was: {type(error).__name__}: {error}. Give "
                    f"the query one without augmentation: hg.mean_loss(dataset, collate=...)."
                ) from error
            return self._of_training
        if not draws and digests[0] is not None and batch_digest(batch) != digests[0]:
            warnings.warn(
                "Held-out data go through torch's default collate function, and training had another one, which makes "
                "other batches of them. If the model needs those, give it to the query: hg.mean_loss(dataset, "
                "collate=...); collate=torch.utils.data.default_collate says that the default is meant.",
                stacklevel=2,
            )
        return None

    def _digest_in_training(self, dataset: Dataset[Any], some: list[int], seed: int) -> int | None:
        """Digest of the batch that training's function makes; None where it makes none of these samples."""
        try:
            return batch_digest(fetch(dataset, some, seed=seed, collate=self._of_training, device=self._device))
        except Exception:
            return None

    def _evaluate(self, batch: Any) -> None:
        with preserved(), torch.no_grad():
            Evaluator(self._loss)(copy_of(self._model).eval(), batch)

"""Margins as queries: by how much a model prefers the label of a sample to all others together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.derivatives import Batch, LossModule, tensor_leaves
from hydragrad.derivatives.one_call import capture_output
from hydragrad.errors import LossError, QueryError
from hydragrad.scores.queries import Evaluate, Query, SampleQuery, checked_indices


def sample_margins(dataset: Dataset[Any], indices: Sequence[int], *, training: bool = False) -> Query:
    """The margin of single samples: one row a sample, in nats.

    The margin is log(p / (1 - p)) with p the probability of the sample's label: the label's logit less the log-sum-exp
    of the other logits. Unlike the loss it does not flatten where the model is sure. High is good, so a sample that
    helps has a *negative* contribution to a margin (without it the margin would fall).

    Args:
        dataset: As for `sample_losses`; the run's loss must call the model once and get logits, (batch, classes), and
            the batch must hold integer labels, (batch,).
        indices: Which samples.
        training: Evaluate the model in training mode.

    Raises:
        QueryError: Indices that the data set does not have; when evaluated, a loss without logits and integer labels.

    Source: the output function of Park et al. 2023, TRAK, section 3.
    """
    samples = checked_indices(dataset, indices)
    query = _MarginQuery(dataset, [[i] for i in samples], [f"margin of sample {i}" for i in samples])
    query.training = training
    return query


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of the labels, (batch,), of logits (batch, classes)."""
    column = labels.long()[:, None]
    others = logits.scatter(1, column, float("-inf"))
    return logits.gather(1, column)[:, 0] - others.logsumexp(1)


class _MarginQuery(SampleQuery):
    """Margins of groups of samples of a data set."""

    def single_samples(self) -> tuple[Dataset[Any], list[int]] | None:
        return None

    def _numbers(self, problem: LossModule, batch: Batch, evaluate: Evaluate) -> Tensor:
        with capture_output(problem, required=True) as captured:
            evaluate()
        try:
            logits = captured.tensor
        except LossError as error:
            raise QueryError(f"{NEEDS} {error}") from error
        labels = [leaf for leaf in tensor_leaves(batch.data) if _fits(leaf, logits)]
        if logits.dim() != 2 or not labels:
            raise QueryError(f"{NEEDS} The model's output here has shape {tuple(logits.shape)}. Use hg.query.")
        return margins(logits, labels[-1])


NEEDS = "sample_margins needs logits (batch, classes) from the model's one call, and integer labels (batch,)."


def _fits(leaf: Tensor, logits: Tensor) -> bool:
    return not leaf.is_floating_point() and leaf.dtype != torch.bool and leaf.shape == logits.shape[:1]

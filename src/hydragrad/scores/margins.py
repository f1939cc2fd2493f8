"""Margins as queries: by how much a model prefers the label of a sample to all others together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.derivatives import (
    Batch,
    Label,
    LossModule,
    find_label,
    labels_by_value,
    possible_logits,
    probes,
    tensor_leaves,
)
from hydragrad.derivatives.one_call import capture_output
from hydragrad.errors import LossError, QueryError
from hydragrad.scores.queries import Collate, Evaluate, Query, QueryPoint, SampleQuery, checked_indices


def sample_margins(
    dataset: Dataset[Any], indices: Sequence[int], *, training: bool = False, collate: Collate | None = None
) -> Query:
    """The margin of single samples: one row a sample, in nats.

    The margin is log(p / (1 - p)) with p the probability of the sample's label: the label's logit less the log-sum-exp
    of the other logits. Unlike the loss it does not flatten where the model is sure. High is good, so a sample that
    helps has a *negative* contribution to a margin (without it the margin would fall).

    Args:
        dataset: As for `sample_losses`; the run's loss must call the model once, get logits, (batch, classes), and
            compare them with one label a sample, wherever it stands in the batch.
        indices: Which samples.
        training: Evaluate the model in training mode.
        collate: As `mean_loss` takes it.

    Raises:
        QueryError: Indices that the data set does not have; when evaluated, a loss without logits or one label.

    Source: the output function of Park et al. 2023, TRAK, section 3.
    """
    samples = checked_indices(dataset, indices)
    query = _MarginQuery(dataset, [[i] for i in samples], [f"margin of sample {i}" for i in samples])
    query.training, query.collate = training, collate
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

    def _numbers(self, point: QueryPoint, problem: LossModule, batch: Batch, evaluate: Evaluate) -> Tensor:
        leaves = tensor_leaves(batch.data)
        with capture_output(problem, required=True) as captured:
            losses, _ = evaluate()
        if len(captured.outputs) != 1:
            raise QueryError(f"{NEEDS} Here the model was called {len(captured.outputs)} times. Use hg.query.")
        possible = possible_logits(captured.outputs, batch.size)
        for logits in possible:
            labels = labels_by_value(logits, losses, leaves)
            if labels is not None:
                return margins(logits, labels)
        label = self._label(point, problem)
        try:
            return margins(possible[label.output], label.of(leaves))
        except LossError as error:
            raise QueryError(f"{NEEDS} {error}") from error

    def _label(self, point: QueryPoint, problem: LossModule) -> Label:
        """The label, where the value of the losses does not show it.

        Raises:
            QueryError: There is none, or no logits.
        """
        batches = (self.batch(point, part) for part in probes(len(self.dataset)))  # type: ignore[arg-type]
        try:
            label = find_label(problem.model, lambda data: problem.loss(problem.model, data), batches)
        except LossError as error:
            raise QueryError(f"{NEEDS} {error}") from error
        if not label.softmax:
            raise QueryError(
                f"{NEEDS} The output here is something else than logits: the loss takes it as probabilities or "
                f"compares it column by column. Use hg.query."
            )
        return label


NEEDS = (
    "sample_margins needs logits (batch, classes) from the model's one call, and one label a sample that the loss "
    "compares them with."
)

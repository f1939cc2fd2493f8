"""The plan of an attribution: everything about run and method that does not depend on the queries, made once a call."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hydragrad.derivatives import (
    Directional,
    Layout,
    LossModule,
    PerSampleLoss,
    one_number_a_part,
    require_cross_entropy,
    require_parts,
    tensor_leaves,
)
from hydragrad.derivatives.label_leaf import class_numbers
from hydragrad.derivatives.one_call import capture_output
from hydragrad.errors import LossError, QueryError
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.replay.averages import statistics_unknown
from hydragrad.replay.histories import has_closed_form, run_histories, trained_layout
from hydragrad.replay.means import Means
from hydragrad.replay.run_means import run_means
from hydragrad.replay.statistics import moved_statistics
from hydragrad.scores import Method
from hydragrad.steps import SMOOTHING, History


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one run is attributed; `make_plan` makes it.

    Attributes:
        run: The recording.
        method: Curvature, damping, smoothing, replays and removal.
        histories: Optimizer histories.
        weights: Lays out all parameters that some step moved, history after history.
        statistics: Lays out the running statistics that carry a cotangent.
        sample_ids: The samples to score, int64.
        classes: Number of labels whose contributions are summed as well, or 0.
        stretches: Equal stretches of the run whose own sums are taken as well, or 0.
        parts: Whether the contributions of the samples' parts are summed as well.
        means: Over what losses are averaged, where leaving a sample out leaves a mean over the rest; None else.
    """

    run: Recording
    method: Method
    histories: Sequence[History]
    weights: Layout
    statistics: Layout
    sample_ids: Tensor
    classes: int = 0
    stretches: int = 0
    parts: bool = False
    means: Means | None = None

    @property
    def loss(self) -> PerSampleLoss:
        """What is differentiated: one number a sample, or, where parts are summed, one a part."""
        return one_number_a_part(require_parts(self.run.loss)) if self.parts else self.run.loss

    @property
    def like(self) -> Tensor:
        """A tensor with dtype and device of the sweep."""
        return next(iter(self.run.final.parameters.values())).to(self.run.device)

    def spans(self) -> list[slice]:
        """Where each history lies in the flat vectors."""
        return [self.weights.span(history.names) for history in self.histories]

    def moved(self) -> Tensor:
        """Which entries of the flat weights a sample's weight can move: no padding rows, nothing that never moved."""
        first, last, like = self.run.initial.parameters, self.run.last.parameters, self.like
        changed = {name: (first[name] != last[name]).to(like) for name in self.weights.names}
        for prefix, module in self.run.model.named_modules(remove_duplicate=False):
            name = f"{prefix}.weight".lstrip(".")
            if isinstance(module, nn.Embedding) and module.padding_idx is not None and name in changed:
                changed[name][module.padding_idx] = 0
        return self.weights.flatten(changed, like).bool()

    @property
    def smoothing(self) -> float:
        """Share of the mean second moment that is added under its root in the derivative."""
        return SMOOTHING if self.method.smoothing is None else self.method.smoothing

    @property
    def has_closed_form(self) -> bool:
        """Whether the run without curvature is a sum over its steps: each a known coefficient times a gradient."""
        return has_closed_form(self.run, self.histories)


def make_plan(
    run: Recording, method: Method, *, sample_ids: Tensor, labels: bool = False, stretches: int = 0, parts: bool = False
) -> Plan:
    """Plan the attribution of a run.

    Args:
        run: The recording.
        method: Curvature, damping, smoothing and replays.
        sample_ids: The samples to score, int64.
        labels: Sum the contributions of every label, too.
        stretches: Equal stretches of the run whose own sums are taken as well, or 0.
        parts: Sum the contributions of the samples' parts, too.

    Raises:
        QueryError: More stretches than steps, or labels and parts at once.
        Unsupported: Means that are to be renormalised, and coefficients of none.
        LossError: `labels`, and the model does not return logits for integer labels; `parts`, and a loss without.
        Unsupported: Curvature, and buffers that update themselves and are not BatchNorm's, or an average of the
            weights with running statistics that are no average.
    """
    if not 0 <= stretches <= len(run.steps):
        raise QueryError(f"stretches must be 0 to {len(run.steps):,}, the number of steps, got {stretches}.")
    if parts and labels:
        raise QueryError(
            "labels=True is for losses of one label a sample, parts=True for those of several parts. Take one."
        )
    if parts:
        require_parts(run.loss)
    means = run_means(run) if method.removal == "renormalised" else None
    if parts and means is not None and not means.over_parts:
        raise QueryError(
            "removal='renormalised' takes the mean over the rest of the samples, in which a part has no share of its "
            "own. Leave out parts=True, or removal=; for losses averaged over all parts of a batch both are possible."
        )
    histories = run_histories(run)
    statistics = moved_statistics(run) if method.curvature != "none" else {}
    if statistics and run.average is not None and run.ends.statistics is None:
        raise statistics_unknown(run.average.name)
    return Plan(
        run=run,
        method=method,
        histories=histories,
        weights=trained_layout(run, histories),
        statistics=Layout(statistics),
        sample_ids=sample_ids,
        classes=_label_count(run) if labels else 0,
        stretches=stretches,
        parts=parts,
        means=means,
    )


def _label_count(run: Recording) -> int:
    """Number of labels: the last dimension of the output of the model's one call."""
    initial, problem = run.initial, LossModule(run.model, run.loss)
    parameters = {name: value.to(run.device) for name, value in initial.parameters.items()}
    buffers = {name: value.to(run.device) for name, value in initial.buffers.items()}
    with preserved(), torch.no_grad(), capture_output(problem, required=True) as captured:
        batch = run.batches(run.steps[0])[0]
        leaves = tensor_leaves(batch.data)
        losses, _ = problem.at(parameters, buffers, batch)
        output = captured.tensor
    if output.dim() != 2 or not any(_is_label(leaves, number, output) for number in range(len(leaves))):
        raise LossError(
            f"labels=True needs logits of shape (batch, classes) and integer labels of shape (batch,) in the batch; "
            f"the model's output has shape {tuple(output.shape)}. Leave labels=True out."
        )
    require_cross_entropy(Directional(losses, losses[None], output, None), leaves)
    return output.shape[1]


def _is_label(leaves: list[Tensor], number: int, output: Tensor) -> bool:
    return class_numbers(leaves, number, output.shape[1]) is not None

"""One attribution, prepared: which queries of which run, by which method, and where the sums go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hydragrad.derivatives import Directional, Layout, label_derivatives, require_cross_entropy
from hydragrad.derivatives.loss_module import Batch
from hydragrad.errors import LossError
from hydragrad.replay import Recording
from hydragrad.replay.histories import has_closed_form
from hydragrad.runs.log import MicroBatch
from hydragrad.scores import Method, QueryRow
from hydragrad.steps import SMOOTHING, History


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attribution of one run.

    Attributes:
        run: The recording.
        rows: Gradients of the queries at the final model.
        histories: Optimizer histories.
        weights: Lays out all parameters that some step moved, history after history.
        statistics: Lays out the running statistics that carry a cotangent.
        sample_ids: The samples to score, int64.
        method: Curvature, damping, smoothing and replays.
        classes: Number of labels whose contributions are summed as well, or 0.
        stretches: Equal stretches of the run whose own sums are taken as well, or 0.
    """

    run: Recording
    rows: Sequence[QueryRow]
    histories: Sequence[History]
    weights: Layout
    statistics: Layout
    sample_ids: Tensor
    method: Method = field(default_factory=Method)
    classes: int = 0
    stretches: int = 0

    @property
    def like(self) -> Tensor:
        """Gives dtype and device of the sweep."""
        return next(iter(self.run.final.parameters.values())).to(self.run.device)

    def spans(self) -> list[slice]:
        """Where each history lies in the flat vectors."""
        return [self.weights.span(history.names) for history in self.histories]

    @property
    def smoothing(self) -> float:
        """Share of the mean second moment that is added under its root in the derivative."""
        return SMOOTHING if self.method.smoothing is None else self.method.smoothing

    @property
    def has_closed_form(self) -> bool:
        """Whether the run without curvature is a sum over its steps: each a known coefficient times a gradient."""
        return has_closed_form(self.run, self.histories)

    def w_bar(self) -> Tensor:
        """Gradients of the queries by the weights, (queries, parameters)."""
        return torch.stack([row.w_bar for row in self.rows])

    def r_bar(self) -> Tensor:
        """Gradients of the queries by the running statistics, (queries, statistics)."""
        return torch.stack([row.r_bar for row in self.rows])


class Tally:
    """Sums of d(query)/d(sample weight), by sample, in float64 on the CPU.

    Attributes:
        values: (queries, samples).
        labels: (queries, samples, classes), or (queries, samples, 0) where no labels are summed.
        over_time: The same as values by stretch of the run, (queries, stretches, samples).
    """

    def __init__(self, job: Job) -> None:
        length = job.run.manifest.data["length"]
        queries, samples = len(job.rows), len(job.sample_ids)
        self._column = torch.full((length,), -1, dtype=torch.int64)
        self._column[job.sample_ids] = torch.arange(samples)
        self.values = torch.zeros(queries, samples, dtype=torch.float64)
        self.labels = torch.zeros(queries, samples, job.classes, dtype=torch.float64)
        self.over_time = torch.zeros(queries, job.stretches, samples, dtype=torch.float64)
        self._steps = len(job.run.steps)

    def wants(self, indices: Sequence[int]) -> bool:
        """Whether any of these samples is to be scored."""
        return bool((self._column[indices] >= 0).any())

    def state(self) -> dict[str, Tensor]:
        """Everything summed so far, to be kept or gone back to."""
        return {"values": self.values.clone(), "labels": self.labels.clone(), "over_time": self.over_time.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        self.values, self.labels, self.over_time = (state[name].clone() for name in ("values", "labels", "over_time"))

    def add(self, step: int, indices: Sequence[int], derivatives: Tensor) -> None:
        """Add the derivatives of a step's samples, (queries, samples), coefficients included."""
        columns = self._column[indices]
        kept = columns >= 0
        columns, derivatives = columns[kept], derivatives.double().cpu()[:, kept]
        self.values.index_add_(1, columns, derivatives)
        stretches = self.over_time.shape[1]
        if stretches:
            self.over_time[:, step * stretches // self._steps].index_add_(1, columns, derivatives)

    def add_weighted(self, step: int, part: MicroBatch, along: Directional, batch: Batch) -> None:
        """Add the derivatives of a micro-batch's losses times their coefficients, under every label where wanted.

        Raises:
            LossError: Labels are wanted, and the loss is not plain cross-entropy with integer labels.
        """
        self.add(step, part.indices, part.weighted(along.losses_dot))
        if not self.labels.shape[-1]:
            return
        require_cross_entropy(along, batch.data)
        columns = self._column[part.indices]
        wanted = columns >= 0
        derivatives = label_derivatives(along).double().cpu()
        if isinstance(part.coefficients, tuple):
            derivatives = derivatives * torch.tensor(part.coefficients, dtype=torch.float64)[:, None]
        else:
            derivatives = (1 / part.divisor) * derivatives
        self.labels.index_add_(1, columns[wanted], derivatives[:, wanted])


def require_same_losses(evaluated: Tensor, replayed: Tensor, step: int) -> None:
    """Refuse derivative evaluations that do not compute the losses that were trained on.

    Raises:
        LossError: The model draws other randomness, or other kernels compute something else.
    """
    if not torch.allclose(evaluated, replayed, rtol=1e-3, atol=1e-4):
        worst = float((evaluated - replayed).abs().max())
        raise LossError(
            f"At step {step} the derivatives were taken of other losses than the run had (off by up to {worst:.1e}): "
            f"the model draws randomness that is not torch's seeded generator, or keeps state outside its buffers. "
            f"Make the forward pass a function of parameters, buffers, batch and torch's generator."
        )

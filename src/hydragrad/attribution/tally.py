"""The tally of an attribution: sums of derivatives by sample, as steps are taken in."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.part_sums import Named, add_parts, join_parts
from hydragrad.attribution.plan import Plan
from hydragrad.derivatives import Batch, Directional, OfParts, label_derivatives, require_cross_entropy
from hydragrad.errors import LossError
from hydragrad.replay.means import Share
from hydragrad.runs import StepRecord
from hydragrad.runs.log import MicroBatch

BY_QUERY = ("values", "labels", "over_time", "parts")
SUMS = (*BY_QUERY, "visits")


class Derived(NamedTuple):
    """What was derived of one micro-batch.

    Attributes:
        part: What the step did with it.
        batch: Its data.
        along: Derivatives of its losses.
        losses: The losses that the replay had.
        part_count: Number of parts of every sample, (batch,), where its loss knows it.
        alpha: The run's own sample weights, (batch,); None where they are 1.
        factor: What the coefficients are multiplied by where the mean is over what these weights leave.
    """

    part: MicroBatch
    batch: Batch
    along: Directional
    losses: Tensor
    part_count: Tensor | None = None
    alpha: Tensor | None = None
    factor: float = 1.0

    def scaled(self, values: Tensor) -> Tensor:
        """Values times the factor."""
        return values if self.factor == 1 else values * self.factor


def _sample_dimension(name: str) -> int:
    """Which dimension of some sums is that of samples."""
    return {"over_time": 2, "visits": 0}.get(name, 1)


class Tally:
    """Sums of d(query)/d(sample weight), by sample, in float64 on the CPU.

    Args:
        plan: Which samples are scored, and whether by label and by stretch.
        queries: Number of scalars.

    Attributes:
        values: (queries, samples).
        labels: (queries, samples, classes), or (queries, samples, 0) where no labels are summed.
        over_time: The same as values by stretch of the run, (queries, stretches, samples).
        parts: The same by part, (queries, samples, most parts), NaN where a sample has no such part; no parts where
            none are summed.
        visits: How often each sample's parts were summed, (samples,).
    """

    def __init__(self, plan: Plan, queries: int) -> None:
        self._plan, self._queries = plan, queries
        samples = len(plan.sample_ids)
        self._column = torch.full((plan.run.manifest.data["length"],), -1, dtype=torch.int64)
        self._column[plan.sample_ids] = torch.arange(samples)
        self.values = torch.zeros(queries, samples, dtype=torch.float64)
        self.labels = torch.zeros(queries, samples, plan.classes, dtype=torch.float64)
        self.over_time = torch.zeros(queries, plan.stretches, samples, dtype=torch.float64)
        self.parts = torch.zeros(queries, samples, 0, dtype=torch.float64)
        self.visits = torch.zeros(samples, dtype=torch.float64)

    def wants(self, indices: Sequence[int]) -> bool:
        """Whether any of these samples is to be scored."""
        return bool((self._column[indices] >= 0).any())

    def sums(self) -> dict[str, Tensor]:
        """Everything summed so far, by name; live tensors."""
        return {name: getattr(self, name) for name in SUMS}

    def of(self, sums: Mapping[str, Tensor]) -> "Tally":
        """A tally of the same plan that starts from copies of some sums."""
        tally = Tally(self._plan, self._queries)
        for name in SUMS:
            setattr(tally, name, sums[name].clone())
        return tally

    def copy(self) -> "Tally":
        """A tally that starts from the sums of this one."""
        return self.of(self.sums())

    def columns(self, records: Iterable[StepRecord]) -> Tensor:
        """Columns of the samples of some steps that are scored, int64, ascending."""
        found = torch.zeros(len(self._column), dtype=torch.bool)
        for record in records:
            found[record.indices] = True
        columns = self._column[found]
        return columns[columns >= 0].sort().values

    def sums_of(self, columns: Tensor) -> dict[str, Tensor]:
        """The sums of some samples, by name."""
        return {name: getattr(self, name).index_select(_sample_dimension(name), columns) for name in SUMS}

    def add_sums(self, columns: Tensor, sums: Mapping[str, Tensor]) -> None:
        """Add the sums that another tally of the same plan has of some samples.

        Raises:
            LossError: A sample has other parts there.
        """
        for name in ("values", "labels", "over_time"):
            getattr(self, name).index_add_(_sample_dimension(name), columns, sums[name])
        self.parts = join_parts(self.parts, self.visits, columns, sums["parts"], sums["visits"], self._plan.sample_ids)

    def add(self, step: int, indices: Sequence[int], derivatives: Tensor) -> None:
        """Add the derivatives of a step's samples, (queries, samples), coefficients included."""
        columns, derivatives = self._scored(indices, derivatives)
        self.values.index_add_(1, columns, derivatives)
        stretches = self._plan.stretches
        if stretches:
            self.over_time[:, step * stretches // len(self._plan.run.steps)].index_add_(1, columns, derivatives)

    def add_terms(
        self,
        record: StepRecord,
        terms: Sequence[Tensor],
        counts: Sequence[Tensor | None],
        alpha: Sequence[Tensor] | None = None,
    ) -> list[Share] | None:
        """Add the derivatives of a step's samples, by micro-batch, less their shares of the means that they are in.

        Args:
            record: The step.
            terms: Coefficients included, float64 (queries, batch).
            counts: Number of parts of every sample, where the plan's means are over parts.
            alpha: The run's own sample weights; None where they are 1.

        Returns:
            These shares; None where a sample's weight changes no mean.
        """
        means = self._plan.means
        shares = None if means is None else means.shares(record, terms, alpha, counts)
        for number, (part, values) in enumerate(zip(record.micro_batches, terms, strict=True)):
            if shares is not None:
                values = values - shares[number].of_sample * shares[number].total[:, None]
            self.add(record.step, part.indices, values)
        return shares

    def add_step(self, record: StepRecord, derived: Sequence[Derived]) -> None:
        """Add the derivatives of a step's losses times their coefficients, under every label where wanted.

        Args:
            record: The step.
            derived: What was derived of its micro-batches, in their order.

        Raises:
            LossError: The derivatives are not those of the losses; or labels are wanted, and the loss is not plain
                cross-entropy with integer labels.
        """
        for one in derived:
            require_same_losses(one.along.losses, one.losses, record.step, half=one.part.autocast is not None)
        terms = [one.scaled(one.part.weighted(one.along.losses_dot).double().cpu()) for one in derived]
        alpha = [one.alpha for one in derived if one.alpha is not None]
        shares = self.add_terms(record, terms, [one.part_count for one in derived], alpha or None)
        for number, one in enumerate(derived):
            share = None if shares is None else shares[number]
            if one.along.parts is not None:
                self._add_parts(record, one, one.along.parts, share)
            if self._plan.classes:
                self._add_labels(one, terms[number], share)

    def _add_labels(self, one: Derived, terms: Tensor, share: Share | None) -> None:
        require_cross_entropy(one.along, one.batch.data)
        part, derivatives = one.part, label_derivatives(one.along).double().cpu()
        if isinstance(part.coefficients, tuple):
            derivatives = derivatives * torch.tensor(part.coefficients, dtype=torch.float64)[:, None]
        else:
            derivatives = (1 / part.divisor) * derivatives
        derivatives = one.scaled(derivatives)
        if share is not None:
            # Under another label the sample's own term in the mean is another one, too.
            alpha = torch.ones_like(share.of_sample) if one.alpha is None else one.alpha.double().cpu()
            others = share.total[:, None, None] + alpha[:, None] * (derivatives - terms[..., None])
            derivatives = derivatives - share.of_sample[:, None] * others
        self.labels.index_add_(1, *self._scored(part.indices, derivatives))

    def _add_parts(self, record: StepRecord, one: Derived, along: OfParts, share: Share | None) -> None:
        part = one.part
        require_same_losses(along.losses, along.trained.values, record.step, half=part.autocast is not None)
        weighted = one.scaled(part.weighted(along.losses_dot, dim=1))
        if share is not None and one.part_count is not None:
            of_part = share.of_sample / one.part_count.double().cpu().clamp(min=1)
            weighted = weighted.double().cpu() - of_part[:, None] * share.total[:, None, None]
        columns, derivatives = self._scored(part.indices, weighted)
        scored = self._column[part.indices] >= 0
        named = Named(record.step, torch.tensor(part.indices)[scored].tolist())
        is_part = along.trained.is_part.cpu()[scored]
        self.parts = add_parts(self.parts, self.visits, columns, is_part, derivatives, named)

    def _scored(self, indices: Sequence[int], derivatives: Tensor) -> tuple[Tensor, Tensor]:
        """Columns and derivatives of the samples that are scored; the second dimension is that of samples."""
        columns = self._column[indices]
        scored = columns >= 0
        return columns[scored], derivatives.double().cpu()[:, scored]


def require_same_losses(evaluated: Tensor, replayed: Tensor, step: int, *, half: bool = False) -> None:
    """Refuse derivative evaluations that do not compute the losses that were trained on.

    Args:
        evaluated: By the derivatives, (batch,).
        replayed: As they trained, (batch,).
        step: For the message.
        half: The run was under autocast there, so that its losses have the rounding of half precision.

    Raises:
        LossError: The model draws other randomness, or other kernels compute something else.
    """
    rtol, atol = (0.1, 0.1 * float(replayed.abs().mean())) if half else (1e-3, 1e-4)
    if not torch.allclose(evaluated, replayed.to(evaluated), rtol=rtol, atol=atol):
        worst = float((evaluated - replayed).abs().max())
        raise LossError(
            f"At step {step} the derivatives were taken of other losses than the run had (off by up to {worst:.1e}): "
            f"the model draws randomness that is not torch's seeded generator, or keeps state outside its buffers. "
            f"Make the forward pass a function of parameters, buffers, batch and torch's generator."
        )

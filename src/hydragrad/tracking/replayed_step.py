"""What rows take from a replayed step: gradients or tangents of the tracked samples, and where the step was taken."""

from collections.abc import Sequence

from torch import Tensor

from hydragrad.derivatives import Batch, Layout
from hydragrad.derivatives.curvature.tangents import ExactTangents
from hydragrad.replay.buffer_flow import BufferFlow
from hydragrad.replay.trajectory import PlaceOfStep, StateNames, Trajectory
from hydragrad.runs import StepRecord
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.rows.recurrence import TakenAt
from hydragrad.tracking.step_gradients import StepGradients


class _TrackedStep(PlaceOfStep):
    """Notes where the optimizer steps, in the form that rows take."""

    @property
    def at(self) -> TakenAt | None:
        """Where, after the step; None where rows do not need it."""
        return None if self.point is None else TakenAt(self.point, self.gradients)


class SampleGradients(_TrackedStep):
    """Gradients of the tracked samples of every micro-batch.

    Attributes:
        rows: Of each micro-batch, (tracked samples, columns).
    """

    def __init__(
        self,
        trajectory: Trajectory,
        weights: Layout,
        states: Sequence[StateNames] | None,
        growing: GrowingRows,
        gradients: StepGradients,
        record: StepRecord,
        batches: Sequence[Batch],
    ) -> None:
        super().__init__(trajectory, weights, states)
        self._growing, self._sample_gradients, self._record, self._batches = growing, gradients, record, batches
        self.rows: list[Tensor] = []

    def before_forward(self, number: int) -> None:
        """Prepare for the tracked samples of a micro-batch."""
        part, batch = self._record.micro_batches[number], self._batches[number]
        self._sample_gradients.before(self._growing.positions(part.indices), lambda: batch, part)

    def after_backward(self, number: int) -> None:
        """Take their gradients."""
        self.rows.append(self._sample_gradients.after())


class ExactStep(_TrackedStep):
    """Tangents of the summed gradient along every row, one micro-batch after the other.

    Attributes:
        g_dot: Tangents of the gradient, (rows, parameters).
    """

    def __init__(
        self,
        trajectory: Trajectory,
        weights: Layout,
        states: Sequence[StateNames] | None,
        tangents: ExactTangents,
        record: StepRecord,
        batches: Sequence[Batch],
        w_dot: Tensor,
        r_dot: Tensor,
        selected: Sequence[Tensor],
    ) -> None:
        super().__init__(trajectory, weights, states)
        self._tangents, self._record, self._batches = tangents, record, batches
        self._w_dot, self._selected = w_dot, selected
        self._statistics = BufferFlow(record, r_dot)
        self.g_dot: Tensor

    @property
    def r_dot(self) -> Tensor:
        """Tangents of the running statistics after the step, (rows, statistics)."""
        return self._statistics.end

    def before_forward(self, number: int) -> None:
        """Add the tangents of a micro-batch."""
        part, trajectory = self._record.micro_batches[number], self._trajectory
        tangents = self._tangents(
            trajectory.parameters,
            trajectory.buffers,
            self._batches[number],
            part.divisor,
            self._w_dot,
            self._statistics.before(number),
            self._selected[number].to(self._w_dot),
            part.loss_weights(self._w_dot),
        )
        self.g_dot = tangents.g_dot if number == 0 else self.g_dot + tangents.g_dot
        self._statistics.after(number, tangents.r_dot)
